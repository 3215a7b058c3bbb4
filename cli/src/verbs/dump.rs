//! `dump`: a file of a snapshot as it is, or a folder as an archive.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use twinkeep_engine::branch::entry::What;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::query::{self, RootWhat, TreeRoot};
use twinkeep_engine::vault::Vault;

use super::walk::Seen;
use crate::error::{Code, hinted, stdout_error, usage};
use crate::names::SnapshotFilter;
use crate::session::Run;
use crate::{archive, paths, show};

/// How much is gathered before it is written, bytes.
const BUFFER_LEN: usize = 256 << 10;

/// What is written, and where to.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    twinkeep dump latest /etc/fstab\n  \
    twinkeep dump latest:/home/ann/photos --archive tar | ssh other tar -x")]
pub struct DumpArgs {
    /// The snapshot: ID, latest, latest~2, @2026-11-01, each maybe with :path
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// The file or folder in it
    #[arg(value_name = "PATH")]
    inside: Option<OsString>,
    /// Write an archive
    #[arg(long, value_name = "KIND")]
    archive: Option<ArchiveKind>,
    /// Write into this file instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: SnapshotFilter,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArchiveKind {
    /// With modes, owners, times and links
    Tar,
    /// With modes and times
    Zip,
}

/// Writes it.
pub fn run(run: &Run, args: &DumpArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let (info, mut root) = run.resolve(&vault, &args.snapshot, &args.filter)?;
    // A long archive is whole even if the snapshot is forgotten and its space freed meanwhile.
    let _pin = vault.store().pin(info.id).context("the snapshot is being removed")?;
    if let Some(path) = &args.inside {
        root = run.resolve_path(&vault, &info, &paths::absolute(&root.path, path.as_bytes()))?;
    }
    refuse_odd(&root, args)?;
    let seen = match &args.output {
        Some(path) => {
            let failed = || format!("cannot write {}", path.display());
            let mut file = File::create(path).with_context(failed)?;
            write(run, &vault, &root, args, &mut file).with_context(failed)?
        }
        None => {
            let mut out = Stdout::default();
            let done = write(run, &vault, &root, args, &mut out);
            // What the engine says of a failed write hides that nobody listens any more.
            if let Some(error) = out.failure {
                return Err(stdout_error(error));
            }
            done?
        }
    };
    Ok(seen.code())
}

fn refuse_odd(root: &TreeRoot, args: &DumpArgs) -> anyhow::Result<()> {
    let shown = || show::escaped(&root.path);
    match &root.what {
        _ if args.archive.is_some() => Ok(()),
        RootWhat::Directory(_) => Err(hinted(
            Code::Usage,
            format!("{} is a folder", shown()),
            "--archive tar or --archive zip writes folders",
        )),
        RootWhat::Entry(entry) => match entry.what {
            What::File(_) => Ok(()),
            What::Directory(_) => Err(hinted(
                Code::Usage,
                format!("{} is a folder", shown()),
                "--archive tar or --archive zip writes folders",
            )),
            _ => Err(usage(format!("{} is neither a file nor a folder", shown()))),
        },
    }
}

fn write(run: &Run, vault: &Vault, root: &TreeRoot, args: &DumpArgs, out: &mut dyn Write) -> anyhow::Result<Seen> {
    let progress = Progress::silent();
    let mut out = BufWriter::with_capacity(BUFFER_LEN, out);
    let seen = match (args.archive, &root.what) {
        (Some(ArchiveKind::Tar), _) => archive::tar(&run.screen, vault, root, &mut out)?,
        (Some(ArchiveKind::Zip), _) => archive::zip(&run.screen, vault, root, &mut out)?,
        (None, RootWhat::Entry(entry)) => {
            if let What::File(content) = &entry.what {
                let failed = || format!("cannot read {}", show::escaped(&root.path));
                query::read_file(vault, content, &mut out, &progress).with_context(failed)?;
            }
            Seen::All
        }
        (None, RootWhat::Directory(_)) => Seen::All,
    };
    out.flush()?;
    Ok(seen)
}

/// Standard output that remembers why it failed.
#[derive(Default)]
struct Stdout {
    failure: Option<io::Error>,
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // By descriptor: the standard handle would look for line ends.
        rustix::io::write(rustix::stdio::stdout(), bytes).map_err(|errno| {
            let error = io::Error::from(errno);
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure = Some(errno.into());
            }
            error
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
