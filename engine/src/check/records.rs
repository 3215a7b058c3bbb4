//! Config and keyring, both copies of each, and the chain of records.

use super::Result;
use super::findings::Findings;
use crate::id::ChunkId;
use crate::limits::RECORD_LEN_MAX;
use crate::record::{Record, RecordError, RecordKind};
use crate::vault::Vault;
use crate::vault::config::{CONFIG_PATH, ConfigFile};
use crate::vault::keyring::{KEYRING_PATH, LockedKeyring};
use crate::vault::twin::COPY_SUFFIX;

/// A snapshot's root and the record that names it.
pub(super) struct Ref {
    pub target: ChunkId,
    pub record: String,
}

/// Reads each copy of config and keyring by itself.
pub(super) fn twins(vault: &Vault, findings: &mut Findings) -> Result<()> {
    twin(vault, CONFIG_PATH, RecordKind::Config, &|bytes| ConfigFile::parse(bytes).map(drop), findings)?;
    twin(vault, KEYRING_PATH, RecordKind::Keyring, &|bytes| LockedKeyring::parse(bytes).map(drop), findings)
}

type Parse<'a> = dyn Fn(&[u8]) -> std::result::Result<(), RecordError> + 'a;

fn twin(vault: &Vault, path: &str, kind: RecordKind, parse: &Parse<'_>, findings: &mut Findings) -> Result<()> {
    let mut whole = Vec::new();
    for path in [path.to_owned(), format!("{path}{COPY_SUFFIX}")] {
        let bytes = match vault.local().files().read_all(&path, RECORD_LEN_MAX) {
            Ok(bytes) => bytes,
            Err(error) => {
                findings.fault(path, format!("it cannot be read: {}", error.source));
                continue;
            }
        };
        match verify(vault, kind, &bytes).and_then(|()| parse(&bytes)) {
            Ok(()) => whole.push((path, bytes)),
            Err(error) => findings.fault(path, error.to_string()),
        }
    }
    if let [(first, a), (second, b)] = &whole[..]
        && a != b
    {
        findings.fault(second.clone(), format!("it differs from {first}, which it should be a copy of"));
    }
    Ok(())
}

/// Checksum, kind, vault and MAC of a record file.
fn verify(vault: &Vault, kind: RecordKind, bytes: &[u8]) -> std::result::Result<(), RecordError> {
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
