//! `forget`: snapshots that nobody wants any more, by a policy or one by one.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::Args;
use serde_json::{Map, Value, json};
use twinkeep_engine::retention::{self, GroupBy, GroupPlan, Limit, Period, Planned, Policy, Rule, Selection, Span};
use twinkeep_engine::vault::{SnapshotInfo, Vault};

use super::{gc, snapshots};
use crate::calendar::Local;
use crate::error::{Code, hinted, usage};
use crate::names::SnapshotFilter;
use crate::retention::{count, group_by, jumps_text, named, span, tags, told as retention_told};
use crate::session::Run;
use crate::show;

/// Which ones, and how it is told.
#[derive(Args, Debug)]
#[command(
    after_help = "A snapshot stays if one of the rules wants it. Rules are applied to each group of snapshots by\n\
    itself, and go by the time at which the vault received a snapshot. Pinned snapshots, and those\n\
    within the vault's minimum retention, always stay.\n\n\
    Forgetting frees nothing yet: `twinkeep undelete` brings back what was forgotten until its window\n\
    ends (`twinkeep config` shows how long that is), and after that `twinkeep gc` frees the space.\n\n\
    Examples: see what a policy would do, then do it; forget one snapshot; forget and free\n  \
    twinkeep forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run\n  \
    twinkeep forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12\n  \
    twinkeep forget 4f2a91c0\n  \
    twinkeep forget --keep-daily 30 --prune"
)]
pub struct ForgetArgs {
    /// Forget just these, without rules: ID, latest, latest~2, @2026-11-01
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<OsString>,
    /// What the snapshots of a group have in common: host, paths, tags, separated by commas; "" for one group of all
    #[arg(long, value_name = "WHAT,…", default_value = "host,paths", value_parser = group_by)]
    group_by: GroupBy,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// Only show what would be forgotten, and why the rest stays
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Then do what `twinkeep gc` does: free what is not needed any more. What was forgotten just now is still needed
    /// until it can no longer be brought back
    #[arg(long)]
    prune: bool,
    /// Confirm that the clock, which has jumped, is right now. While that is in doubt nothing is forgotten
    #[arg(long)]
    clock_is_right: bool,
    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Rules")]
struct RuleArgs {
    /// Keep the last N snapshots ("unlimited" for all, here and below)
    #[arg(short = 'l', long, value_name = "N", value_parser = count)]
    keep_last: Option<u32>,
    /// Keep the newest snapshot of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N", value_parser = count)]
    keep_hourly: Option<u32>,
    /// The same for days
    #[arg(short = 'd', long, value_name = "N", value_parser = count)]
    keep_daily: Option<u32>,
    /// The same for weeks, from Monday to Sunday
    #[arg(short = 'w', long, value_name = "N", value_parser = count)]
    keep_weekly: Option<u32>,
    /// The same for months
    #[arg(short = 'm', long, value_name = "N", value_parser = count)]
    keep_monthly: Option<u32>,
    /// The same for years
    #[arg(long, value_name = "N", value_parser = count)]
    keep_yearly: Option<u32>,
    /// Keep all snapshots that are older than the newest of the group by no more than this: 2y5m7d3h (m: months)
    #[arg(long, value_name = "DURATION", value_parser = span)]
    keep_within: Option<Span>,
    /// Of the snapshots within this time, keep the newest of each hour
    #[arg(long, value_name = "DURATION", value_parser = span)]
    keep_within_hourly: Option<Span>,
    /// The same for days
    #[arg(long, value_name = "DURATION", value_parser = span)]
    keep_within_daily: Option<Span>,
    /// The same for weeks
    #[arg(long, value_name = "DURATION", value_parser = span)]
    keep_within_weekly: Option<Span>,
    /// The same for months
    #[arg(long, value_name = "DURATION", value_parser = span)]
    keep_within_monthly: Option<Span>,
    /// The same for years
    #[arg(long, value_name = "DURATION", value_parser = span)]
    keep_within_yearly: Option<Span>,
    /// Keep snapshots with all these tags, separated by commas (repeated: any of the sets)
    #[arg(long, value_name = "TAG,…")]
    keep_tag: Vec<String>,
}

impl RuleArgs {
    fn policy(&self) -> anyhow::Result<Policy> {
        let counts = [
            (Period::Snapshot, self.keep_last, self.keep_within),
            (Period::Hour, self.keep_hourly, self.keep_within_hourly),
            (Period::Day, self.keep_daily, self.keep_within_daily),
            (Period::Week, self.keep_weekly, self.keep_within_weekly),
            (Period::Month, self.keep_monthly, self.keep_within_monthly),
            (Period::Year, self.keep_yearly, self.keep_within_yearly),
        ];
        let mut rules = Vec::new();
        for (period, count, within) in counts {
            rules.extend(count.map(|count| Rule { period, limit: Limit::Count(count) }));
            rules.extend(within.map(|span| Rule { period, limit: Limit::Within(span) }));
        }
        let tags = self.keep_tag.iter().map(|set| tags(set).map_err(usage)).collect::<anyhow::Result<_>>()?;
        Ok(Policy { rules, tags })
    }
}

/// Forgets.
pub fn run(run: &Run, args: &ForgetArgs) -> anyhow::Result<Code> {
    let policy = args.rules.policy()?;
    if policy.is_empty() && args.snapshots.is_empty() && !args.clock_is_right {
        return Err(hinted(
            Code::Usage,
            "nothing says what to keep",
            "give rules such as --keep-daily 7, or name the snapshots to forget",
        ));
    }
    if !policy.is_empty() && !args.snapshots.is_empty() {
        return Err(usage("either rules say what is forgotten, or the snapshots are named; not both"));
    }
    let vault = run.open()?;
    if args.clock_is_right && !args.dry_run {
        confirm_clock(run, &vault)?;
    }
    if !args.snapshots.is_empty() {
        forget_named(run, &vault, args)?;
    } else if !policy.is_empty() {
        forget_by_policy(run, &vault, args, &policy)?;
    }
    if args.prune && args.dry_run {
        run.screen.warn(None, "what would be forgotten and purged now counts as needed in what would be freed");
    }
    match args.prune {
        true => gc::free(run, &vault, args.dry_run).map(|code| if code == Code::Done { run.listed() } else { code }),
        false => Ok(run.listed()),
    }
}

fn confirm_clock(run: &Run, vault: &Vault) -> anyhow::Result<()> {
    let jumps = retention::confirm_clock(vault).map_err(|error| retention_told(run, error))?;
    match jumps.is_empty() {
        true => run.screen.tell("the clock has not jumped"),
        false => run.screen.tell(&format!("the clock is taken for right: it went {}", jumps_text(run, &jumps))),
    }
}

fn forget_named(run: &Run, vault: &Vault, args: &ForgetArgs) -> anyhow::Result<()> {
    let infos = named(run, &run.snapshots(vault)?, &args.snapshots)?;
    let records: Vec<u64> = infos.iter().map(|info| info.record).collect();
    if args.dry_run {
        let history = vault.history()?;
        let now = vault.env().clock.now();
        for info in &infos {
            let may = history.refs.get(&info.record).map(|entry| entry.may_forget(now, history.retention_days_min));
            if let Some(Err(refusal)) = may {
                let id = info.id;
                return Err(retention_told(run, retention::RetentionError::Refused { id, refusal }));
            }
        }
        warn_of_clock(run, &retention::doubts(&history, now));
        return tell_end(run, vault, args, &Ended { forgotten: infos.len(), ..Ended::default() });
    }
    retention::forget(vault, &records, "named").map_err(|error| retention_told(run, error))?;
    let purged = match retention::purge(vault) {
        Ok(purged) => purged.len(),
        // What was asked for is done; what time asks for has to wait.
        Err(error) => {
            run.screen.warn(None, &crate::error::one_line(&retention_told(run, error)));
            0
        }
    };
    tell_end(run, vault, args, &Ended { forgotten: infos.len(), purged, ..Ended::default() })
}

fn forget_by_policy(run: &Run, vault: &Vault, args: &ForgetArgs, policy: &Policy) -> anyhow::Result<()> {
    let cwd = run.cwd();
    let admits = |info: &SnapshotInfo| args.filter.admits(info, &cwd);
    let selection = Selection { policy, group_by: args.group_by, admits: &admits };
    let calendar = Local(&run.zone);
    let planned = match args.dry_run {
        true => retention::look(vault, &selection, &calendar),
        false => retention::forget_by_policy(vault, &selection, &calendar, "by a policy"),
    };
    let planned = planned.map_err(|error| retention_told(run, error))?;
    run.warn_damaged(&planned.snapshots);
    for group in &planned.groups {
        tell_group(run, group, &planned)?;
    }
    let purged = match args.dry_run {
        true => {
            warn_of_clock(run, &planned.doubts);
            planned.due.len() + planned.superseded.len()
        }
        false => retention::purge(vault).map_err(|error| retention_told(run, error))?.len(),
    };
    let decisions = || planned.groups.iter().flat_map(|group| &group.decisions);
    let ended = Ended {
        kept: decisions().filter(|one| one.keep).count(),
        forgotten: decisions().filter(|one| !one.keep).count(),
        checkpoints: planned.superseded.len(),
        purged,
    };
    tell_end(run, vault, args, &ended)
}

fn warn_of_clock(run: &Run, doubts: &[twinkeep_engine::history::Jump]) {
    if !doubts.is_empty() {
        let jumps = jumps_text(run, doubts);
        run.screen.warn(None, &format!("the clock has jumped {jumps}: this would be refused without --clock-is-right"));
    }
}

fn tell_group(run: &Run, group: &GroupPlan, planned: &Planned) -> anyhow::Result<()> {
    let infos: BTreeMap<u64, &SnapshotInfo> = planned.snapshots.list.iter().map(|info| (info.record, info)).collect();
    let decisions = group.decisions.iter().filter_map(|one| Some((one, *infos.get(&one.record)?)));
    if run.screen.json {
        for (decision, info) in decisions {
            let mut fields: Map<String, Value> = snapshots::fields(info);
            fields.insert("keep".into(), decision.keep.into());
            fields.insert("reasons".into(), json!(decision.reasons));
            fields.insert("group".into(), snapshots::group_fields(&group.key));
            run.screen.message("decision", &Value::Object(fields))?;
        }
        return Ok(());
    }
    let row = |(decision, info): (&retention::Decision, &SnapshotInfo)| {
        vec![
            show::short(&info.id),
            show::local(show::timestamp(info.received), &run.zone),
            show::escaped(info.snapshot.tags.join(",").as_bytes()),
            if decision.keep { "keep" } else { "forget" }.to_owned(),
            show::escaped(decision.reasons.join("; ").as_bytes()),
        ]
    };
    let rows = decisions.map(row).collect();
    run.screen.tell(&snapshots::group_title(&group.key))?;
    run.screen.tell(&show::table(&["ID", "Received", "Tags", "", "Why"], rows, &[]))
}

/// How it ended, or would.
#[derive(Default)]
struct Ended {
    kept: usize,
    forgotten: usize,
    checkpoints: usize,
    purged: usize,
}

fn tell_end(run: &Run, vault: &Vault, args: &ForgetArgs, ended: &Ended) -> anyhow::Result<()> {
    let days = vault.config().undelete_days;
    if run.screen.json {
        let fields = json!({
            "dry_run": args.dry_run,
            "kept": ended.kept,
            "forgotten": ended.forgotten,
            "checkpoints": ended.checkpoints,
            "purged": ended.purged,
            "undelete_days": days,
        });
        return run.screen.message("summary", &fields);
    }
    let would = |done: &str, wish: &str| if args.dry_run { wish.to_owned() } else { done.to_owned() };
    let snapshots = show::count(ended.forgotten as u64, "snapshot");
    let mut line = format!("{} {snapshots}", would("forgot", "would forget"));
    if ended.kept > 0 {
        line = format!("{line}, {} {}", would("kept", "keep"), ended.kept);
    }
    run.screen.tell(&line)?;
    if ended.checkpoints > 0 {
        let checkpoints = show::count(ended.checkpoints as u64, "checkpoint");
        run.screen
            .tell(&format!("{checkpoints} that later backups have replaced {} too", would("went", "would go")))?;
    }
    if ended.forgotten > 0 && !args.dry_run && days > 0 {
        run.screen.tell(&format!("`twinkeep undelete` brings them back for {}", show::count(days.into(), "day")))?;
    }
    if ended.purged > 0 {
        let all = show::count(ended.purged as u64, "forgotten snapshot");
        run.screen
            .tell(&format!("{all} {} for good: the time to bring them back is over", would("went", "would go")))?;
    }
    Ok(())
}
