//! What a vault of many chunks costs whoever uses it: `cargo bench -p twinkeep-engine --bench scale -- 600000 2500000
//! 10000000`, with numbers of chunks.
//!
//! For each number a vault is made in a temporary folder. Processes of their own open it, back up [`FILES`] small files
//! into it and check it; then one dies without a word after it put [`LEFT_LEN`] bytes that no index knows yet, and
//! others open the vault again and back up. Each line gives seconds and the most anonymous memory of that process, in
//! MB (10^6 bytes); pages of the index that are mapped are not among them, the system takes those back.

mod large;

use large::{fill, open, sealer, with_peak};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use twinkeep_engine::backup::{BackupOptions, backup};
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::env::Dice;
use twinkeep_engine::frame::FrameBuilder;
use twinkeep_engine::id::Kind;
use twinkeep_engine::progress::Progress;

const SNAPSHOTS: usize = 10;

/// Small files of a backup.
const FILES: usize = 20_000;

/// Bytes that a killed process leaves.
const LEFT_LEN: usize = 1 << 30;

/// Length of a leaf among them, bytes.
const LEFT_LEAF_LEN: usize = 64 << 10;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let first = args.next();
    if let Some(step @ ("open" | "backup" | "check" | "read" | "die")) = first.as_deref() {
        let (vault, files) = (args.next().expect("a vault"), args.next().expect("a folder of files"));
        return run(step, Path::new(&vault), Path::new(&files));
    }
    let counts = first.into_iter().chain(args).map(|arg| arg.parse().expect("a number of chunks"));
    let counts: Vec<usize> = counts.collect();
    for count in if counts.is_empty() { vec![600_000] } else { counts } {
        let (vault, files) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let begun = Instant::now();
        fill(vault.path(), count, SNAPSHOTS);
        println!("{count} chunks, made in {:.1} s", begun.elapsed().as_secs_f64());
        for round in 0..2 {
            write_files(files.path(), round);
            for step in ["open", "open", "open", "backup", "backup", "check", "read"] {
                apart(step, vault.path(), files.path());
            }
            if round == 0 {
                apart("die", vault.path(), files.path());
            }
        }
    }
}

fn write_files(folder: &Path, round: usize) {
    for at in 0..FILES {
        let dir = folder.join((at / 500).to_string());
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join(at.to_string()), format!("file {at} of round {round} ").repeat(40)).expect("a file");
    }
}

/// In a process of its own, whose memory is only this step's.
fn apart(step: &str, vault: &Path, files: &Path) {
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).arg(step).arg(vault).arg(files).status().expect("start this program");
    let expected = if step == "die" { status.signal() == Some(libc::SIGKILL) } else { status.success() };
    assert!(expected, "{step}: {status}");
}

fn run(step: &str, folder: &Path, files: &Path) {
    if step == "die" {
        return die(folder);
    }
    let begun = Instant::now();
    let (told, most) = with_peak(|| {
        let vault = open(folder);
        let opened = begun.elapsed().as_secs_f64();
        match step {
            "backup" => {
                let paths = vec![files.as_os_str().as_encoded_bytes().to_vec()];
                let options = BackupOptions { paths, ..BackupOptions::default() };
                let done = backup(&vault, &options, &Progress::silent()).expect("a backup");
                format!("{} new chunks", done.chunks_new)
            }
            "check" | "read" => {
                let options = CheckOptions { read_data: step == "read", ..CheckOptions::default() };
                let report = check(&vault, &options, &Progress::silent()).expect("a check");
                format!("{} chunks", report.chunks)
            }
            _ => format!("{:.1} ms", opened * 1e3),
        }
    });
    println!("  {step:<8}{:>8.3} s {:>8.1} MB  {told}", begun.elapsed().as_secs_f64(), most as f64 / 1e6);
}

/// Puts content that is in no index when the process ends.
fn die(folder: &Path) {
    let vault = open(folder);
    let session = vault.store().begin().expect("a session");
    let mut sealer = sealer(&vault, session.id());
    let mut builder = FrameBuilder::new(Kind::Leaf);
    let mut leaf = vec![0; LEFT_LEAF_LEN];
    let mut dice = Dice(7);
    for _ in 0..LEFT_LEN / LEFT_LEAF_LEN {
        dice.fill(&mut leaf);
        if !builder.fits(0, leaf.len()) {
            session.put(sealer.seal(&mut builder)).expect("put a frame");
        }
        builder.push(vault.keys().leaf_id(&leaf), &[], &leaf);
    }
    println!("  killed after {} MiB that nobody knows", session.written_len() >> 20);
    // SAFETY: a signal to ourselves.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}
