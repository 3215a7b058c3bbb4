//! What can go wrong with a vault as a whole, and the classes that callers tell apart.

use super::keyring::KeyringError;
use super::reader::ReadError;
use super::twin::TwinError;
use crate::files::FilesError;
use crate::id::DeviceId;
use crate::kv::KvError;
use crate::pack::PackError;
use crate::record::RecordError;
use crate::store::{RemoteKind, StoreError};

/// What kind of failure an error is, for exit codes and hints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorClass {
    /// There is no vault.
    NoVault,
    /// Somebody else works on it.
    Busy,
    /// Wrong password, machine key or words.
    WrongKey,
    /// The system forbids it.
    NotAllowed,
    /// The disk is full.
    NoSpace,
    /// The account's room is used up.
    Quota,
    /// The machine where the vault rests cannot be reached.
    Unreachable,
    /// Something stored is damaged.
    Damaged,
    /// Written by a later version.
    TooNew,
    /// Somebody asked to stop.
    Cancelled,
    /// What was asked for makes no sense.
    Usage,
    /// Anything else.
    Other,
}

impl ErrorClass {
    /// Class of an error of files.
    pub fn of_files(error: &FilesError) -> Self {
        use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => Self::NoSpace,
            PermissionDenied | ReadOnlyFilesystem => Self::NotAllowed,
            _ => Self::Other,
        }
    }

    /// Class of an error of a store.
    pub fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Files(error) | StoreError::Pack(PackError::Files(error)) => Self::of_files(error),
            StoreError::Index(KvError::NoSpace) => Self::NoSpace,
            StoreError::Index(KvError::Damaged(_)) => Self::Damaged,
            StoreError::Index(KvError::NotAllowed(_)) => Self::NotAllowed,
            StoreError::Index(KvError::Io(_)) => Self::Other,
            StoreError::Pack(_) | StoreError::Missing(_) | StoreError::DamagedFrame { .. } => Self::Damaged,
            StoreError::Busy { .. } => Self::Busy,
            StoreError::Elsewhere => Self::Usage,
            StoreError::Remote { kind, .. } => match kind {
                RemoteKind::Unreachable => Self::Unreachable,
                RemoteKind::NotAllowed => Self::NotAllowed,
                RemoteKind::Quota => Self::Quota,
                RemoteKind::NoSpace => Self::NoSpace,
                RemoteKind::Other => Self::Other,
            },
            StoreError::Gone { .. } | StoreError::SessionFailed | StoreError::TooManyClaims => Self::Other,
        }
    }
}

/// A vault cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is none.
    #[error("there is no vault here")]
    NoVault,
    /// There is something already.
    #[error("the folder is not empty and holds no vault")]
    Occupied,
    /// There is one already.
    #[error("there is a vault here already")]
    Exists,
    /// It needs a key and got none, or got one and needs none.
    #[error("{0}")]
    Unlock(&'static str),
    /// The key does not open it.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The config cannot be used.
    #[error("the vault's config cannot be used")]
    Config(#[source] TwinError<RecordError>),
    /// The keyring cannot be used.
    #[error("the vault's keyring cannot be used; the recovery words still open the vault")]
    KeyringFile(#[source] TwinError<RecordError>),
    /// A device key was given for something that takes a member.
    #[error("this key may only write: it opens nothing of what is in the vault")]
    WriteOnly,
    /// The keyring does not have the device, or no longer.
    #[error("device {0} may no longer write to this vault")]
    DeviceRefused(DeviceId),
    /// A record is not believed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A setting out of its bounds.
    #[error("{0}")]
    Setting(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file failed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A chunk cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

fn class_of_record(error: &RecordError) -> ErrorClass {
    match error {
        RecordError::Unknown { .. } => ErrorClass::TooNew,
        _ => ErrorClass::Damaged,
    }
}

fn class_of_twin(error: &TwinError<RecordError>) -> ErrorClass {
    match error {
        TwinError::Missing { .. } => ErrorClass::NoVault,
        TwinError::Files(error) => ErrorClass::of_files(error),
        TwinError::Invalid { source, .. } => class_of_record(source),
    }
}

impl VaultError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoVault => ErrorClass::NoVault,
            Self::Occupied | Self::Exists | Self::Setting(_) => ErrorClass::Usage,
            Self::Unlock(_) | Self::DeviceRefused(_) => ErrorClass::WrongKey,
            Self::WriteOnly => ErrorClass::NotAllowed,
            Self::Keyring(KeyringError::Record(error)) | Self::Record(error) => class_of_record(error),
            Self::Keyring(KeyringError::Bound { .. } | KeyringError::EmptyPassword | KeyringError::Cost { .. }) => {
                ErrorClass::Usage
            }
            Self::Keyring(_) => ErrorClass::WrongKey,
            Self::Config(error) => class_of_twin(error),
            // The config is there, so a vault is.
            Self::KeyringFile(TwinError::Missing { .. }) => ErrorClass::Damaged,
            Self::KeyringFile(error) => class_of_twin(error),
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Files(error) => ErrorClass::of_files(error),
            Self::Read(error) => error.class(),
        }
    }
}

impl ReadError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Absent(_) | Self::Damaged { .. } | Self::Branch(_) => ErrorClass::Damaged,
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Decompression(_) => ErrorClass::Other,
            Self::WriteOnly => ErrorClass::NotAllowed,
        }
    }
}
