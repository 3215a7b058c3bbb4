//! Refs: names for branches.

use twinkeep_schema::vault_capnp as schema;

use super::canonical::{self, CanonicalError};
use super::{RecordError, RecordKind};
use crate::env::Time;
use crate::id::{ChunkId, DeviceId, SessionId};

/// What a ref names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RefKind {
    /// A whole backup.
    Snapshot,
    /// A checkpoint of a backup that did not end; never the latest snapshot.
    PartialSnapshot,
}

/// Where copies were when a ref was acknowledged: the weakest over its whole closure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Only on the source machine.
    P0 = 0,
    /// On one machine that is not the source.
    P1 = 1,
    /// On two machines, at least one not the source.
    P2 = 2,
}

impl Level {
    /// Reads the byte that stands in records.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::P0),
            1 => Some(Self::P1),
            2 => Some(Self::P2),
            _ => None,
        }
    }
}

/// The payload of a ref record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefRecord {
    /// What is named.
    pub kind: RefKind,
    /// The branch.
    pub target: ChunkId,
    /// Who wrote it.
    pub session: SessionId,
    /// How safe it was when acknowledged.
    pub level: Level,
    /// When the session began, by its own clock.
    pub session_started: Time,
    /// The device whose key makes the record's MAC; none for a member.
    pub device: Option<DeviceId>,
}

impl RefRecord {
    /// The payload, in canonical form.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = capnp::message::Builder::new_default();
        let mut root = message.init_root::<schema::ref_::Builder>();
        root.set_kind(match self.kind {
            RefKind::Snapshot => schema::RefKind::Snapshot,
            RefKind::PartialSnapshot => schema::RefKind::PartialSnapshot,
        });
        root.set_level(self.level as u8);
        root.set_session_started(self.session_started.0);
        root.set_target(&self.target.0);
        root.set_session(&self.session.0);
        if let Some(device) = &self.device {
            root.set_device(&device.0);
        }
        canonical::encode(message)
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        Self::read(payload).map_err(|what| RecordError::Payload { kind: RecordKind::Ref, what })
    }

    fn read(payload: &[u8]) -> Result<Self, String> {
        let text = |error: CanonicalError| error.to_string();
        let message = canonical::decode(payload).map_err(text)?;
        let fields = || -> Result<_, CanonicalError> {
            let root: schema::ref_::Reader = message.get_root()?;
            Ok((root, root.get_kind()?, root.get_target()?, root.get_session()?, root.get_device()?))
        };
        let (root, kind, target, session, device) = fields().map_err(text)?;
        Ok(Self {
            kind: match kind {
                schema::RefKind::Unknown => return Err("kind is 0, expected 1 or 2".into()),
                schema::RefKind::Snapshot => RefKind::Snapshot,
                schema::RefKind::PartialSnapshot => RefKind::PartialSnapshot,
            },
            target: ChunkId::from_slice(target)
                .ok_or_else(|| format!("target has {} bytes, expected 32", target.len()))?,
            session: SessionId::from_slice(session)
                .ok_or_else(|| format!("session has {} bytes, expected 16", session.len()))?,
            level: Level::from_byte(root.get_level())
                .ok_or_else(|| format!("level is {}, expected 0 to 2", root.get_level()))?,
            session_started: Time(root.get_session_started()),
            device: match device {
                [] => None,
                _ => Some(
                    DeviceId::from_slice(device)
                        .ok_or_else(|| format!("device has {} bytes, expected 8 or none", device.len()))?,
                ),
            },
        })
    }
}
