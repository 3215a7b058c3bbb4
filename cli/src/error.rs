//! What an error means to the person at the command line: a message, an exit code and a hint.

use std::fmt;
use std::io;

use twinkeep_engine::vault::ErrorClass;

/// Exit codes; the numbers are a contract with scripts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Asked for wrongly.
    Usage = 2,
    /// Done, but some sources could not be read.
    Incomplete = 3,
    /// Done, with fewer copies than asked for.
    FewerCopies = 4,
    /// No vault there.
    NoVault = 10,
    /// Somebody else holds what is needed.
    Busy = 11,
    /// Wrong password or key, or none.
    WrongKey = 12,
    /// Not allowed: by the system, or by what the vault promises to keep.
    NotAllowed = 13,
    /// The account's quota is used up.
    Quota = 14,
    /// No space left.
    NoSpace = 15,
    /// No tracker of the office can be reached.
    NoTracker = 16,
    /// Done, and damage of older snapshots healed on the way.
    Healed = 17,
    /// Damage found and not healed.
    Damaged = 18,
    /// Written by a newer version.
    TooNew = 20,
    /// Interrupted.
    Interrupted = 130,
}

/// An error of the command itself, with what to do next.
#[derive(Debug)]
pub struct Told {
    /// The exit code it leads to.
    pub code: Code,
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Told {}

/// An error with its exit code and no hint.
pub fn told(code: Code, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Told { code, message: message.into(), hint: None })
}

/// An error with its exit code and a hint.
pub fn hinted(code: Code, message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Told { code, message: message.into(), hint: Some(hint.into()) })
}

/// A command line that cannot be meant.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    told(Code::Usage, message)
}

/// Exit code and hint of an error, whichever layer knows them.
pub fn judge(error: &anyhow::Error) -> (Code, Option<String>) {
    if let Some(told) = error.downcast_ref::<Told>() {
        return (told.code, told.hint.clone());
    }
    if let Some(class) = class(error) {
        return of_class(class);
    }
    let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    match error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(error) if full(error.kind()) => of_class(ErrorClass::NoSpace),
        _ => (Code::Failed, None),
    }
}

/// What the engine says of its own errors.
fn class(error: &anyhow::Error) -> Option<ErrorClass> {
    use twinkeep_engine::gc::GcError;
    use twinkeep_engine::restore::RestoreError;
    use twinkeep_engine::retention::RetentionError;
    use twinkeep_engine::scrub::ScrubError;
    use twinkeep_engine::vault::VaultError;
    use twinkeep_engine::{backup::BackupError, check::CheckError, query::QueryError, repair::RepairError};
    None.or_else(|| error.downcast_ref::<VaultError>().map(VaultError::class))
        .or_else(|| error.downcast_ref::<RetentionError>().map(RetentionError::class))
        .or_else(|| error.downcast_ref::<BackupError>().map(BackupError::class))
        .or_else(|| error.downcast_ref::<RestoreError>().map(RestoreError::class))
        .or_else(|| error.downcast_ref::<CheckError>().map(CheckError::class))
        .or_else(|| error.downcast_ref::<QueryError>().map(QueryError::class))
        .or_else(|| error.downcast_ref::<RepairError>().map(RepairError::class))
        .or_else(|| error.downcast_ref::<ScrubError>().map(ScrubError::class))
        .or_else(|| error.downcast_ref::<GcError>().map(GcError::class))
}

fn of_class(class: ErrorClass) -> (Code, Option<String>) {
    let (code, hint) = match class {
        ErrorClass::NoVault => (Code::NoVault, Some("make one with `twinkeep init`, or name another with --vault")),
        ErrorClass::Busy => (Code::Busy, Some("wait until the other process has ended, then try again")),
        ErrorClass::WrongKey => (
            Code::WrongKey,
            Some("check the password, or open the vault with its recovery words: --recovery-words-file FILE"),
        ),
        ErrorClass::NotAllowed => (Code::NotAllowed, None),
        ErrorClass::NoSpace => (Code::NoSpace, Some("free some space and run it again; what was stored stays stored")),
        ErrorClass::Quota => {
            (Code::Quota, Some("forget snapshots, or ask an administrator for more: `twinkeep user quota`"))
        }
        ErrorClass::Unreachable => (Code::NoTracker, Some("see whether the host is running and the network is up")),
        ErrorClass::Damaged => (Code::Damaged, Some("`twinkeep check --read-data` lists everything that is damaged")),
        ErrorClass::TooNew => (Code::TooNew, Some("install a newer version of twinkeep")),
        ErrorClass::Cancelled => (Code::Interrupted, None),
        ErrorClass::Usage => (Code::Usage, None),
        ErrorClass::Other => (Code::Failed, None),
    };
    (code, hint.map(str::to_owned))
}

/// Whether standard output was closed by its reader; other pipes that break carry a message of their own.
pub fn is_closed_stdout(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClosedStdout>().is_some()
}

/// The reader of standard output went away.
#[derive(Debug)]
pub struct ClosedStdout;

impl fmt::Display for ClosedStdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for ClosedStdout {}

/// An error from writing to standard output.
pub fn stdout_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => anyhow::Error::new(ClosedStdout),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    }
}

/// The whole chain in one line, without repeating what a cause already said.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn chains_are_one_line_and_keep_code_and_hint() {
        let error =
            Err::<(), _>(hinted(Code::NoVault, "no vault in /x", "make one")).context("cannot list").unwrap_err();
        assert_eq!(one_line(&error), "cannot list: no vault in /x");
        assert_eq!(judge(&error), (Code::NoVault, Some("make one".to_owned())));
        let busy = twinkeep_engine::store::StoreError::Busy { what: "gc", owner: "pid 7".to_owned() };
        let busy = Err::<(), _>(twinkeep_engine::gc::GcError::from(busy)).context("nothing was touched").unwrap_err();
        assert_eq!(judge(&busy).0, Code::Busy);
        let full = anyhow::Error::new(io::Error::from(io::ErrorKind::StorageFull)).context("cannot write");
        assert_eq!(judge(&full).0, Code::NoSpace);
        assert_eq!(judge(&anyhow::anyhow!("x")), (Code::Failed, None));
        assert!(is_closed_stdout(&stdout_error(io::ErrorKind::BrokenPipe.into()).context("more")));
    }
}
