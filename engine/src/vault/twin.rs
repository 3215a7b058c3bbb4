//! Small files a vault cannot live without, kept twice: `name` and `name.copy`.
//!
//! The copy is written first, each atomically, so after a crash at least one of them is whole. The valid one that was
//! written most often counts.

use crate::files::{Files, FilesError};
use crate::limits::RECORD_LEN_MAX;

/// What comes after the name of a twin's second file.
pub const COPY_SUFFIX: &str = ".copy";

/// What [`load`] found.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The newest valid value.
    pub value: T,
    /// How often it had been written.
    pub count: u64,
    /// One sentence for each file that is missing, damaged or behind; to be told, and healed by [`store`].
    pub damaged: Vec<String>,
}

/// Neither of the two files gives a value.
#[derive(Debug, thiserror::Error)]
pub enum TwinError<E: std::error::Error + 'static> {
    /// Neither exists.
    #[error("neither {path} nor {path}{COPY_SUFFIX} exists")]
    Missing {
        /// The first file.
        path: String,
    },
    /// A file that exists cannot be read; nothing else does better.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A file that exists is not valid; nothing else does better.
    #[error("cannot use {path}")]
    Invalid {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: E,
    },
}

/// Reads both files; `parse` gives how often the value had been written, and the value.
pub fn load<T, E: std::error::Error + 'static>(
    files: &dyn Files,
    path: &str,
    parse: impl Fn(&[u8]) -> Result<(u64, T), E>,
) -> Result<Loaded<T>, TwinError<E>> {
    let copy = format!("{path}{COPY_SUFFIX}");
    let read = |path: &str| read_one(files, path, &parse);
    match (read(path), read(&copy)) {
        (Ok(main), Ok(other)) => Ok(newer(main, path, other, &copy)),
        (Ok(main), Err(error)) => Ok(main.loaded(vec![sentence(&error)])),
        (Err(error), Ok(other)) => Ok(other.loaded(vec![sentence(&error)])),
        (Err(TwinError::Missing { .. }), Err(TwinError::Missing { .. })) => {
            Err(TwinError::Missing { path: path.to_owned() })
        }
        // What is wrong with a file that is there says more than that the other is missing.
        (Err(TwinError::Missing { .. }), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

/// Writes both files; when it returns both are durable.
pub fn store(files: &dyn Files, path: &str, bytes: &[u8]) -> Result<(), FilesError> {
    files.write_atomic(&format!("{path}{COPY_SUFFIX}"), bytes)?;
    files.write_atomic(path, bytes)
}

struct One<T> {
    value: T,
    count: u64,
    bytes: Vec<u8>,
}

impl<T> One<T> {
    fn loaded(self, damaged: Vec<String>) -> Loaded<T> {
        Loaded { value: self.value, count: self.count, damaged }
    }
}

fn read_one<T, E: std::error::Error + 'static>(
    files: &dyn Files,
    path: &str,
    parse: &impl Fn(&[u8]) -> Result<(u64, T), E>,
) -> Result<One<T>, TwinError<E>> {
    let bytes = match files.read_all(path, RECORD_LEN_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(TwinError::Missing { path: path.to_owned() });
        }
        other => other?,
    };
    let (count, value) = parse(&bytes).map_err(|source| TwinError::Invalid { path: path.to_owned(), source })?;
    Ok(One { value, count, bytes })
}

fn newer<T>(main: One<T>, main_path: &str, copy: One<T>, copy_path: &str) -> Loaded<T> {
    if main.bytes == copy.bytes {
        return main.loaded(Vec::new());
    }
    let behind = |path, old: u64, new: u64| {
        if old == new {
            format!("{path} differs from its twin though both were written {new} times")
        } else {
            format!("{path} is behind its twin: written {old} times, not {new}")
        }
    };
    if copy.count > main.count {
        let damaged = vec![behind(main_path, main.count, copy.count)];
        copy.loaded(damaged)
    } else {
        let damaged = vec![behind(copy_path, copy.count, main.count)];
        main.loaded(damaged)
    }
}

fn sentence<E: std::error::Error + 'static>(error: &TwinError<E>) -> String {
    match error {
        TwinError::Missing { path } => format!("{path} is missing"),
        TwinError::Files(error) => format!("{error}: {}", error.source),
        TwinError::Invalid { path, source } => format!("{path} is damaged: {source}"),
    }
}

#[cfg(test)]
mod tests;
