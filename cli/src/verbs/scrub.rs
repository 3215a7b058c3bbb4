//! `scrub`: whether the bytes on the disk are still those that were stored, without a password.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use twinkeep_engine::scrub::{self, Done, End, Round, ScrubFault, ScrubOptions, ScrubReport, Status};
use twinkeep_engine::vault::Vault;

use crate::error::{Code, told, usage};
use crate::office;
use crate::session::Run;
use crate::{idle, parse, show, watch};

/// What to do.
#[derive(Args, Debug)]
#[command(
    after_help = "Reads config, keyring, records, index and packs, and tells whether their bytes are still those that\n\
    were stored. That takes no key, so nobody has to be there to give a password. What is bad is set\n\
    aside, and the next backup stores it anew if its source still has it. `pause`, or Ctrl-C, ends a\n\
    scrub with its place kept; `resume` goes on from there.\n\n\
    Example: begin a round that reads 50 MiB a second at most, look at it from elsewhere, end it, go on\n  \
    twinkeep scrub start --rate 50M\n  twinkeep scrub status\n  twinkeep scrub pause\n  twinkeep scrub resume --rate 50M"
)]
pub struct ScrubArgs {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    /// Read at most so many bytes a second, such as 50M (of start and resume)
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    rate: Option<NonZeroU64>,
    /// Take disk and processor like any other program, instead of letting others go first
    #[arg(long)]
    no_idle: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Action {
    /// Begin a round and stay with it until it is complete
    Start,
    /// Tell what was verified, what is bad, and how far the present round is
    Status,
    /// End the scrub that runs, its place kept
    Pause,
    /// Go on with the round that was left
    Resume,
}

fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(parse::size(text)?).ok_or_else(|| "at no bytes a second nothing would ever be read".to_owned())
}

/// Longest wait for a scrub that was asked to pause.
const PAUSE_WAIT: Duration = Duration::from_secs(5);

/// Scrubs, or speaks to the scrub that runs.
pub fn run(run: &Run, args: &ScrubArgs) -> anyhow::Result<Code> {
    if run.is_office()? {
        return at_office(run, args);
    }
    match args.action {
        Action::Start => work(run, args, false),
        Action::Resume => work(run, args, true),
        Action::Status => status(run),
        Action::Pause => pause(run),
    }
}

/// At an office the host and every machine that is there verify what they hold, and heal each other.
fn at_office(run: &Run, args: &ScrubArgs) -> anyhow::Result<Code> {
    if !matches!(args.action, Action::Start) || args.rate.is_some() {
        return Err(usage("an office is verified as a whole: `twinkeep scrub start`, without --rate"));
    }
    let report = office::admin()?.scrub().map_err(office::told)?;
    let left = report.bad.saturating_sub(report.healed);
    let frames = |count| show::count(count, "frame");
    if run.screen.json {
        let fields = json!({
            "frames": report.frames,
            "bytes": report.bytes,
            "machines": report.machines,
            "bad": report.bad,
            "healed": report.healed,
            "copies_bad": report.copies_bad,
            "silent": report.silent,
        });
        run.screen.message("office_scrub", &fields)?;
    } else {
        let machines = show::count(u64::from(report.machines), "machine");
        run.screen.tell(&format!("verified {} at the host and {machines}", show::size(report.bytes)))?;
        if report.copies_bad > 0 {
            run.screen
                .tell(&format!("damaged on other machines, and made again there: {}", frames(report.copies_bad)))?;
        }
        if report.bad > 0 {
            let (bad, healed) = (frames(report.bad), report.healed);
            run.screen.tell(&format!("damaged at the host: {bad}, of which {healed} healed from another machine"))?;
        }
        if !report.silent.is_empty() {
            run.screen.warn(None, &format!("these machines did not answer: {}", report.silent.join(", ")));
        }
    }
    Ok(match (left, report.bad + report.copies_bad) {
        (0, 0) => Code::Done,
        (0, _) => Code::Healed,
        (_, _) => Code::Damaged,
    })
}

fn work(run: &Run, args: &ScrubArgs, resume: bool) -> anyhow::Result<Code> {
    if !args.no_idle {
        idle::step_back();
    }
    let env = run.env(Some(1));
    // What is wrong with a copy of the config the round finds, too.
    let opened = run.open_store(env.clone())?;
    let options = ScrubOptions { resume, rate: args.rate, ..ScrubOptions::default() };
    let progress = watch::progress(&run.screen);
    let watch = watch::Watch::begin(&run.screen, &progress)?;
    let done = scrub::scrub(&opened.store, &env, opened.rebuilt.as_deref(), &options, &progress);
    drop(watch);
    let report = done.context("the scrub could not go on")?;
    for note in &report.notes {
        run.screen.warn(None, note);
    }
    if run.screen.json {
        let which = if report.end == End::Complete { "last" } else { "present" };
        round_json(run, which, &report.round)?;
        run.screen.message("summary", &json!({ "end": end_word(report.end) }))?;
    } else {
        tell_end(run, &report)?;
    }
    Ok(match report.end {
        End::Interrupted => Code::Interrupted,
        _ if report.round.is_clean() => Code::Done,
        _ => Code::Damaged,
    })
}

fn tell_end(run: &Run, report: &ScrubReport) -> anyhow::Result<()> {
    let round = &report.round;
    tell_faults(run, round)?;
    run.screen.tell(&verified(round))?;
    match report.end {
        End::Complete if round.is_clean() => return run.screen.tell("every byte is what was stored"),
        End::Complete => {}
        End::Paused | End::Interrupted => {
            let went = if report.end == End::Paused { "paused" } else { "interrupted" };
            run.screen.tell(&format!("{went} at {:.0} %; `twinkeep scrub resume` goes on", round.percent()))?;
        }
    }
    if !round.is_clean() {
        run.screen.warn(None, "damage found; a new backup of the same files heals what it can read again");
    }
    Ok(())
}

fn verified(round: &Round) -> String {
    let counts = &round.counts;
    format!(
        "round {}: verified {} in {}, {}, the index of {}; read {}",
        round.number,
        show::count(counts.frames, "frame"),
        show::count(counts.packs, "pack"),
        show::count(counts.records, "record"),
        show::count(counts.chunks, "chunk"),
        show::size(counts.bytes),
    )
}

fn tell_faults(run: &Run, round: &Round) -> anyhow::Result<()> {
    for fault in &round.faults {
        let did = match fault.done {
            Done::Told => "",
            Done::Pending => "; it will be set aside",
            Done::SetAside => "; set aside",
            Done::Earlier => " and set aside",
        };
        run.screen.line(&show::escaped(format!("damaged: {}: {}{did}", fault.file, fault.problem).as_bytes()))?;
    }
    if round.faults_more > 0 {
        run.screen.line(&format!("… and {} more", round.faults_more))?;
    }
    let counts = &round.counts;
    if counts.lost_chunks > 0 {
        let lost = show::count(counts.lost_chunks, "chunk");
        run.screen.line(&format!("{lost} lost by damage found earlier, and not stored anew since"))?;
    }
    Ok(())
}

fn status(run: &Run) -> anyhow::Result<Code> {
    let (location, place) = run.place()?;
    let looking = || format!("cannot look at the vault {}", location.display());
    let head = Vault::head(&place).with_context(looking)?;
    let status = scrub::status(&*place.files, head.vault).with_context(looking)?;
    for note in &status.notes {
        run.screen.warn(None, note);
    }
    if run.screen.json {
        status_json(run, &status)?;
    } else {
        status_words(run, &status)?;
    }
    let is_clean = [&status.last, &status.present].into_iter().flatten().all(Round::is_clean);
    Ok(if is_clean { Code::Done } else { Code::Damaged })
}

fn status_words(run: &Run, status: &Status) -> anyhow::Result<()> {
    let local = |time| show::local(show::timestamp(time), &run.zone);
    match (&status.last, status.last.as_ref().and_then(|round| round.ended)) {
        (Some(round), Some(ended)) => {
            run.screen.line(&format!("last complete round: begun {}, ended {}", local(round.begun), local(ended)))?;
            run.screen.line(&verified(round))?;
            tell_faults(run, round)?;
            if round.is_clean() {
                run.screen.line("every byte was what was stored")?;
            }
        }
        _ => run.screen.line("no round is complete yet")?,
    }
    if let Some(round) = &status.present {
        let at = match (&status.running, round.place) {
            (Some(owner), _) => format!("running ({owner})"),
            (None, Some(place)) => format!("paused at {}", place.name.path()),
            (None, None) => "paused".to_owned(),
        };
        run.screen.line(&format!(
            "present round: begun {}, {:.0} %, {}, {at}; written down {}",
            local(round.begun),
            round.percent(),
            round.step.name(),
            local(round.saved)
        ))?;
        run.screen.line(&verified(round))?;
        tell_faults(run, round)?;
    }
    Ok(())
}

fn status_json(run: &Run, status: &Status) -> anyhow::Result<()> {
    for (which, round) in [("last", &status.last), ("present", &status.present)] {
        if let Some(round) = round {
            round_json(run, which, round)?;
        }
    }
    run.screen.message("summary", &json!({ "running": status.running }))
}

/// A round and, before it, what it found.
fn round_json(run: &Run, which: &str, round: &Round) -> anyhow::Result<()> {
    for ScrubFault { file, offset, problem, done, .. } in &round.faults {
        let done = match done {
            Done::Told => "told",
            Done::Pending => "pending",
            Done::SetAside => "set_aside",
            Done::Earlier => "earlier",
        };
        let number = round.number;
        let fields = json!({ "round": number, "file": file, "offset": offset, "problem": problem, "done": done });
        run.screen.message("fault", &fields)?;
    }
    let mut fields = round_fields(round);
    fields.insert("which".into(), which.into());
    run.screen.message("round", &Value::Object(fields))
}

fn end_word(end: End) -> &'static str {
    match end {
        End::Complete => "complete",
        End::Paused => "paused",
        End::Interrupted => "interrupted",
    }
}

fn round_fields(round: &Round) -> Map<String, Value> {
    let counts = &round.counts;
    let time = |time| show::timestamp(time).to_string();
    let fields = json!({
        "round": round.number,
        "begun": time(round.begun),
        "saved": time(round.saved),
        "ended": round.ended.map(time),
        "step": round.step.name(),
        "pack": round.place.map(|place| place.name.file_name()),
        "offset": round.place.map(|place| place.offset).filter(|&offset| offset != scrub::PackPlace::END),
        "percent": round.percent(),
        "clean": round.is_clean(),
        "packs": counts.packs,
        "frames": counts.frames,
        "records": counts.records,
        "chunks": counts.chunks,
        "bytes_read": counts.bytes,
        "bytes_total": round.bytes_total,
        "faults": round.faults.len() as u64 + round.faults_more,
        "set_aside_earlier": counts.set_aside,
        "lost_chunks": counts.lost_chunks,
        "right_when_read_again": counts.passing,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn pause(run: &Run) -> anyhow::Result<Code> {
    let (location, place) = run.place()?;
    let asking = || format!("cannot reach the scrub of {}", location.display());
    let Some(running) = scrub::ask_to_pause(&*place.files).with_context(asking)? else {
        if run.screen.json {
            run.screen.message("summary", &json!({ "running": null, "paused": false }))?;
        } else {
            run.screen.tell("no scrub is running")?;
        }
        return Ok(Code::Done);
    };
    let asked = Instant::now();
    while scrub::running(&*place.files).with_context(asking)?.is_some() {
        if asked.elapsed() > PAUSE_WAIT {
            return Err(told(Code::Busy, format!("{running} was asked to pause and has not done so yet")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    if run.screen.json {
        return run.screen.message("summary", &json!({ "running": null, "paused": true })).map(|()| Code::Done);
    }
    run.screen.tell("paused; `twinkeep scrub resume` goes on")?;
    Ok(Code::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(parse_rate("50M").ok().map(NonZeroU64::get), Some(50 << 20));
        assert!(parse_rate("0").is_err() && parse_rate("fast").is_err());
    }
}
