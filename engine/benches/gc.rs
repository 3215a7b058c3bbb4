//! How long a collection of garbage takes and what memory it needs: `cargo bench -p twinkeep-engine --bench gc --
//! 600000 2500000 10000000`, with numbers of chunks.
//!
//! For each number a vault is made in a temporary folder: trees of many folders, of which every snapshot changes some,
//! with leaves of a few bytes. Then half the snapshots are purged, and a process of its own collects: once with
//! everything needed and once with garbage. It prints seconds and the most anonymous memory that it had while it
//! collected, in MB (10^6 bytes); pages of the index that are mapped are not among them, the system takes those back.

mod large;

use large::{anonymous, fill, open, with_peak};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use twinkeep_engine::gc::{Access, GcOptions, collect};
use twinkeep_engine::history::History;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::record::{ChangeKind, ChangeRecord};
use twinkeep_engine::vault::Vault;

const SNAPSHOTS: usize = 1000;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let first = args.next();
    if first.as_deref() == Some("collect") {
        return measure(Path::new(&args.next().expect("a vault")));
    }
    let counts = first.into_iter().chain(args).map(|arg| arg.parse().expect("a number of chunks"));
    let counts: Vec<usize> = counts.collect();
    for count in if counts.is_empty() { vec![600_000] } else { counts } {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let begun = Instant::now();
        fill(folder.path(), count, SNAPSHOTS);
        println!("{count} chunks, {SNAPSHOTS} snapshots, made in {:.1} s", begun.elapsed().as_secs_f64());
        collect_apart(folder.path());
        purge_half(&open(folder.path()));
        collect_apart(folder.path());
        collect_apart(folder.path());
    }
}

/// In a process of its own, whose memory is only the collection's.
fn collect_apart(folder: &Path) {
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).arg("collect").arg(folder).status().expect("start this program");
    assert!(status.success(), "{status}");
}

fn measure(folder: &Path) {
    let vault = open(folder);
    let before = anonymous();
    let options = GcOptions::default();
    let (report, most) =
        with_peak(|| collect(Access::Keys(&vault), &options, &Progress::silent()).expect("a collection"));
    println!(
        "  {} needed, {} condemned, {} removed, {} frames moved, {} taken apart: {:.2} s, {:.1} MB of memory ({:.1} before)",
        report.chunks_live,
        report.chunks_condemned,
        report.chunks_removed,
        report.frames_moved,
        report.frames_taken_apart,
        report.duration.as_secs_f64(),
        most as f64 / 1e6,
        before as f64 / 1e6,
    );
}

/// Forgets and purges every second snapshot.
fn purge_half(vault: &Vault) {
    for kind in [ChangeKind::Forget { undelete_days: 0 }, ChangeKind::Purge] {
        let decide = &mut |history: &History, _| {
            let records = history.refs.keys().copied().filter(|count| count % 2 == 1).collect();
            Some(ChangeRecord { records, note: String::new(), kind: kind.clone() })
        };
        vault.change(decide).expect("a change");
    }
}
