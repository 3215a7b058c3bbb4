//! Config and keyring, both copies of each, and the chain of records.

use super::Result;
use super::findings::Findings;
use crate::files::{self, Files};
use crate::id::ChunkId;
use crate::limits::RECORD_LEN_MAX;
use crate::pack;
use crate::record::{Record, RecordError, RecordKind};
use crate::vault::Vault;
use crate::vault::config::{CONFIG_PATH, ConfigFile};
use crate::vault::keyring::{KEYRING_PATH, LockedKeyring};
use crate::vault::twin::COPY_SUFFIX;
use std::io::ErrorKind::{FileTooLarge, InvalidInput, NotFound};

/// A snapshot's root and the record that names it.
pub(super) struct Ref {
    pub target: ChunkId,
    pub record: String,
}

/// Reads each copy of config and keyring by itself; `verify` says what a whole record of this kind has to fulfil.
pub(crate) fn twins(files: &dyn Files, verify: &Verify<'_>, findings: &mut Findings) -> Result<()> {
    let config = |bytes: &[u8]| verify(RecordKind::Config, bytes).and_then(|()| ConfigFile::parse(bytes).map(drop));
    twin(files, CONFIG_PATH, &config, findings)?;
    let keyring =
        |bytes: &[u8]| verify(RecordKind::Keyring, bytes).and_then(|()| LockedKeyring::parse(bytes).map(drop));
    twin(files, KEYRING_PATH, &keyring, findings)
}

/// What a file that says it is a record of a kind has to fulfil.
pub(crate) type Verify<'a> = dyn Fn(RecordKind, &[u8]) -> std::result::Result<(), RecordError> + 'a;

type Parse<'a> = dyn Fn(&[u8]) -> std::result::Result<(), RecordError> + 'a;

fn twin(files: &dyn Files, path: &str, parse: &Parse<'_>, findings: &mut Findings) -> Result<()> {
    let mut whole = Vec::new();
    for path in [path.to_owned(), format!("{path}{COPY_SUFFIX}")] {
        match read_whole(files, &path, parse)? {
            Ok(bytes) => whole.push((path, bytes)),
            Err(problem) => findings.fault(path, problem),
        }
    }
    if let [(first, a), (second, b)] = &whole[..]
        && a != b
    {
        findings.fault(second.clone(), format!("it differs from {first}, which it should be a copy of"));
    }
    Ok(())
}

/// The bytes of a record file, or what is wrong with it. What looks wrong is read once more, from the disk.
///
/// # Errors
/// What says nothing about the file: no descriptors, no rights.
pub(crate) fn read_whole(
    files: &dyn Files,
    path: &str,
    parse: &Parse<'_>,
) -> files::Result<std::result::Result<Vec<u8>, String>> {
    let judge = |read: files::Result<Vec<u8>>| match read {
        Ok(bytes) => Ok(match parse(&bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(error.to_string()),
        }),
        Err(error) if pack::is_media(&error) || matches!(error.kind(), NotFound | FileTooLarge | InvalidInput) => {
            Ok(Err(format!("it cannot be read: {}", error.source)))
        }
        Err(error) => Err(error),
    };
    match judge(files.read_all(path, RECORD_LEN_MAX))? {
        Err(_) => judge(files.read_anew(path, RECORD_LEN_MAX)),
        whole => Ok(whole),
    }
}

/// Checksum, kind, vault and MAC of a record file.
pub(super) fn verify(vault: &Vault, kind: RecordKind, bytes: &[u8]) -> std::result::Result<(), RecordError> {
    let parsed = Record::parse(bytes)?;
    parsed.record.expect(kind, vault.id())?;
    parsed.verify_mac(&|bytes| vault.keys().record_mac(bytes)).map(drop)
}

/// All refs that hold something back, checkpoints and what superseded them alike; records that cannot be believed
/// become faults.
pub(super) fn refs(vault: &Vault, findings: &mut Findings) -> Result<Vec<Ref>> {
    let history = vault.history()?;
    findings.report.records = vault.store().records()?.len() as u64;
    for fault in history.open_faults() {
        findings.fault(fault.file.clone(), fault.problem.clone());
    }
    let named = history
        .roots()
        .map(|entry| Ref { target: entry.reference.target, record: format!("records/{:016x}", entry.count) });
    Ok(named.collect())
}
