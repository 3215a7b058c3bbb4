//! `node` and `audit`: the machines of the office, and what happened to it.

use clap::{Args, Subcommand};
use serde_json::json;
use twinkeep_engine::env::Time;
use twinkeep_nodes::remote::admin::{NodeChange, NodeRow};
use twinkeep_nodes::tracker::limits::MISSING_HOURS;
use twinkeep_nodes::transport::keys::fingerprint;

use crate::error::{Code, hinted, usage};
use crate::office::{admin, told};
use crate::password;
use crate::session::Run;
use crate::show;

/// What to do with machines.
#[derive(Args, Debug)]
#[command(arg_required_else_help = true, after_help = "Example:\n  twinkeep node list")]
pub struct NodeArgs {
    #[command(subcommand)]
    verb: NodeVerb,
}

#[derive(Subcommand, Debug)]
enum NodeVerb {
    /// List the machines of the office
    #[command(after_help = "Example: with those that were forgotten or revoked\n  twinkeep node list --all")]
    List(ListArgs),
    /// Show everything the host knows of one machine
    #[command(after_help = "Example:\n  twinkeep node show pc7")]
    Show(NameArgs),
    /// Let a machine in that has joined
    #[command(after_help = "Example:\n  twinkeep node approve pc7")]
    Approve(NameArgs),
    /// Give a machine nothing new, and have what it holds copied elsewhere
    #[command(after_help = "Example:\n  twinkeep node drain pc7")]
    Drain(DrainArgs),
    /// A machine does not come back: its copies are made again elsewhere
    Forget(ForgetArgs),
    /// Terminals that are missing now do not come back: make their copies again elsewhere
    #[command(
        after_help = "Asked by `twinkeep host status` when over a third of the terminals are missing at once.\n\n\
        Example:\n  twinkeep node give-up"
    )]
    GiveUp,
    /// Never trust a machine's key again, and make its copies again elsewhere
    #[command(after_help = "Example: it was stolen\n  twinkeep node revoke pc7")]
    Revoke(NameArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Also those that were forgotten or revoked
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
struct NameArgs {
    /// The machine's name
    name: String,
}

#[derive(Args, Debug)]
#[command(after_help = "Refused while the machine has the only copy of what is damaged or gone at the host.\n\n\
    Example:\n  twinkeep node forget pc7")]
struct ForgetArgs {
    /// The machine's name
    name: String,
    /// Go on although what is lost at the host is lost for good with it
    #[arg(long)]
    give_up_data: bool,
}

#[derive(Args, Debug)]
struct DrainArgs {
    /// The machine's name
    name: String,
    /// It is used again
    #[arg(long)]
    off: bool,
}

/// What to show of the log.
#[derive(Args, Debug)]
#[command(after_help = "Example: the last 20 entries\n  twinkeep audit --last 20")]
pub struct AuditArgs {
    /// Only the newest N entries
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

/// Does it.
pub fn run(run: &Run, args: &NodeArgs) -> anyhow::Result<Code> {
    match &args.verb {
        NodeVerb::List(args) => list(run, args),
        NodeVerb::Show(args) => show_one(run, &args.name),
        NodeVerb::Approve(args) => {
            let node = named(admin()?.nodes().map_err(told)?, &args.name)?;
            if node.status != "pending" {
                let text = format!("{} does not wait to be let in: it is {}", node.name, node.status);
                return Err(hinted(Code::Failed, text, "`twinkeep node list` shows which machines wait for approval"));
            }
            change(run, &args.name, NodeChange::Approve, ["approved", "takes part from now on"])
        }
        NodeVerb::Drain(args) => {
            let words = match args.off {
                true => ["used", "is used again"],
                false => ["draining", "gets nothing new, and what it holds is copied elsewhere"],
            };
            change(run, &args.name, NodeChange::Drain(!args.off), words)
        }
        NodeVerb::Forget(args) => {
            confirmed(run, &format!("forget {}, and make its copies again elsewhere", args.name))?;
            let words = ["forgotten", "is forgotten; its copies are made again elsewhere"];
            change(run, &args.name, NodeChange::Forget { give_up_data: args.give_up_data }, words)
        }
        NodeVerb::GiveUp => {
            let admin = admin()?;
            confirmed(run, "give up the terminals that are missing now")?;
            let is_missing = |node: &NodeRow| node.hours_missed >= MISSING_HOURS && !node.given_up;
            let is_any = admin.nodes().map_err(told)?.iter().any(is_missing);
            admin.give_up().map_err(told)?;
            match (run.screen.json, is_any) {
                (true, _) => run.screen.message("given_up", &json!({}))?,
                (_, true) => {
                    run.screen.tell("those missing now are given up; their copies are made again elsewhere")?
                }
                (_, false) => run.screen.tell("no terminal is missing: nothing is given up")?,
            }
            Ok(Code::Done)
        }
        NodeVerb::Revoke(args) => {
            confirmed(run, &format!("never trust the key of {} again", args.name))?;
            let words = ["revoked", "is not trusted any more; its copies are made again elsewhere"];
            change(run, &args.name, NodeChange::Revoke, words)
        }
    }
}

/// Asks where somebody can answer; a script says what it means with `--yes`.
pub(super) fn confirmed(run: &Run, what: &str) -> anyhow::Result<()> {
    // A script that says so means it; only somebody who sits there is asked.
    if run.globals.yes || !password::can_ask() || password::confirm(&format!("{what}?"))? {
        return Ok(());
    }
    Err(usage("nothing was done"))
}

/// `words`: one for programs, the others for people.
fn change(run: &Run, name: &str, change: NodeChange, [word, words]: [&str; 2]) -> anyhow::Result<Code> {
    admin()?.change_node(name, change).map_err(told)?;
    match run.screen.json {
        true => run.screen.message("node_changed", &json!({ "name": name, "change": word }))?,
        false => run.screen.tell(&format!("{name} {words}"))?,
    }
    Ok(Code::Done)
}

fn list(run: &Run, args: &ListArgs) -> anyhow::Result<Code> {
    let mut nodes = admin()?.nodes().map_err(told)?;
    nodes.retain(|node| args.all || matches!(&node.status[..], "active" | "pending"));
    if run.screen.json {
        for node in &nodes {
            run.screen.message("machine", &fields(node))?;
        }
        return Ok(Code::Done);
    }
    let rows = nodes.iter().map(|node| {
        let state = state(node);
        let seen = node.last_seen.map(|time| show::local(show::timestamp(time), &run.zone));
        let mut notes = vec![node.note.clone()];
        if node.draining {
            notes.push("is being emptied".to_owned());
        }
        if node.status == "pending" {
            notes.push(format!("key {}", fingerprint(&node.key)));
        }
        notes.retain(|note| !note.is_empty());
        let (used, granted) = (show::size(node.used), show::size(node.granted));
        vec![node.name.clone(), state, used, granted, seen.unwrap_or_default(), notes.join(", ")]
    });
    let header = ["Machine", "State", "Holds", "Granted", "Last seen", ""];
    run.screen.write_stdout(show::table(&header, rows.collect(), &[2, 3]).as_bytes())?;
    run.screen.tell(&show::count(nodes.len() as u64, "machine"))?;
    Ok(Code::Done)
}

/// In words how a machine takes part.
fn state(node: &NodeRow) -> String {
    match &node.status[..] {
        "active" => node.presence.clone(),
        "pending" => "waits for approval".to_owned(),
        other => other.to_owned(),
    }
}

/// The machine of a name: of several that had it, the one that takes part now, else the last.
fn named(nodes: Vec<NodeRow>, name: &str) -> anyhow::Result<NodeRow> {
    let mut named: Vec<NodeRow> = nodes.into_iter().filter(|node| node.name == name).collect();
    let at = named.iter().position(|node| matches!(&node.status[..], "active" | "pending"));
    let at = at.or_else(|| named.len().checked_sub(1));
    let hint = "`twinkeep node list --all` shows all there ever were";
    at.map(|at| named.swap_remove(at)).ok_or_else(|| hinted(Code::Failed, format!("there is no machine {name}"), hint))
}

fn show_one(run: &Run, name: &str) -> anyhow::Result<Code> {
    let node = named(admin()?.nodes().map_err(told)?, name)?;
    if run.screen.json {
        let mut all = fields(&node);
        let more = json!({
            "address": Some(&node.address).filter(|address| !address.is_empty()),
            "machine_id": node.machine_id.to_hex(),
            "joined": show::timestamp(node.joined).to_string(),
            "proven": node.proven.map(|time| show::timestamp(time).to_string()),
            "on_their_way": node.on_their_way,
            "hours_missed": node.hours_missed,
            "given_up": node.given_up,
            "failures": node.failures,
            "rests_until": node.rests_until.map(|time| show::timestamp(time).to_string()),
        });
        if let (Some(all), serde_json::Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        run.screen.message("machine_shown", &all)?;
        return Ok(Code::Done);
    }
    run.screen.line(&node.name)?;
    lines(run, &node).into_iter().try_for_each(|(what, text)| run.screen.line(&format!("  {what:<12} {text}")))?;
    Ok(Code::Done)
}

/// What there is to say of a machine, for people.
fn lines(run: &Run, node: &NodeRow) -> Vec<(&'static str, String)> {
    let at = |time: Time| show::local(show::timestamp(time), &run.zone);
    let since_start = "not since the host started".to_owned();
    let from = if node.address.is_empty() { String::new() } else { format!(", from {}", node.address) };
    let (used, granted) = (show::size(node.used), show::size(node.granted));
    let mut lines = vec![
        ("key", fingerprint(&node.key)),
        ("state", format!("{}{from}", state(node))),
        ("joined", at(node.joined)),
        ("last seen", node.last_seen.map_or_else(|| since_start.clone(), at)),
        ("holds", format!("{used} of {granted} granted, in {}", show::count(node.frames, "frame"))),
        ("last proof", node.proven.map_or(since_start, at)),
    ];
    if !node.version.is_empty() {
        lines.push(("program", node.version.clone()));
        lines.push(("its disk", format!("{} free", show::size(node.free))));
    }
    if node.on_their_way > 0 {
        lines.push(("on their way", show::count(node.on_their_way.into(), "frame")));
    }
    if node.hours_missed > 0 {
        lines.push(("missed for", format!("{} that count", show::count(node.hours_missed.into(), "hour"))));
    }
    if node.failures > 0 {
        lines.push(("failed", show::count(node.failures.into(), "time")));
    }
    if let Some(until) = node.rests_until {
        lines.push(("rests until", at(until)));
    }
    let notes = [
        (node.draining, "it is being emptied"),
        (node.given_up, "it was away for too long: its copies are made elsewhere"),
        (!node.note.is_empty(), &node.note),
    ];
    lines.extend(notes.into_iter().filter(|(is_so, _)| *is_so).map(|(_, note)| ("note", note.to_owned())));
    lines
}

fn fields(node: &NodeRow) -> serde_json::Value {
    json!({
        "name": node.name,
        "key": node.key.to_hex(),
        "fingerprint": fingerprint(&node.key),
        "status": node.status,
        "presence": node.presence,
        "granted": node.granted,
        "used": node.used,
        "free": node.free,
        "frames": node.frames,
        "draining": node.draining,
        "last_seen": node.last_seen.map(|time| show::timestamp(time).to_string()),
        "version": node.version,
        "note": node.note,
    })
}

/// Shows the log.
pub fn audit(run: &Run, args: &AuditArgs) -> anyhow::Result<Code> {
    let admin = admin()?;
    let mut all = Vec::new();
    loop {
        let from = all.last().map_or(1, |entry: &twinkeep_nodes::remote::admin::AuditRow| entry.sequence + 1);
        let entries = admin.audit(from, 1000).map_err(told)?;
        if entries.is_empty() {
            break;
        }
        all.extend(entries);
    }
    let first = args.last.map_or(0, |last| all.len().saturating_sub(last));
    for entry in &all[first..] {
        let time = show::timestamp(entry.time);
        match run.screen.json {
            true => run.screen.message(
                "entry",
                &json!({
                    "sequence": entry.sequence,
                    "time": time.to_string(),
                    "actor": entry.actor,
                    "what": entry.what,
                }),
            )?,
            false => {
                let what = show::escaped(entry.what.as_bytes());
                let time = show::local(time, &run.zone);
                run.screen.line(&format!("{:>6}  {time}  {:<12} {what}", entry.sequence, entry.actor))?;
            }
        }
    }
    Ok(Code::Done)
}
