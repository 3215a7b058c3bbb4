//! Lists of ids as they stand in calls: one after the other, without anything between.

use super::limits::IDS_MAX;
use super::problem::{Problem, Why, problem};

/// An id of fixed length.
pub trait Id: Sized {
    /// Bytes.
    const LEN: usize;
    /// From as many bytes.
    fn of(bytes: &[u8]) -> Option<Self>;
    /// Its bytes.
    fn bytes(&self) -> &[u8];
}

macro_rules! id {
    ($($name:ty),*) => {$(
        impl Id for $name {
            const LEN: usize = <$name>::LEN;
            fn of(bytes: &[u8]) -> Option<Self> {
                <$name>::from_slice(bytes)
            }
            fn bytes(&self) -> &[u8] {
                &self.0
            }
        }
    )*};
}

id!(twinkeep_engine::id::ChunkId, twinkeep_engine::id::FrameId, twinkeep_engine::id::VaultId);

/// All of them as one string of bytes.
pub fn join<T: Id>(ids: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ids.len() * T::LEN);
    ids.iter().for_each(|id| bytes.extend_from_slice(id.bytes()));
    bytes
}

/// Takes them apart; at most `IDS_MAX`.
pub fn split<T: Id>(bytes: &[u8]) -> Result<Vec<T>, Problem> {
    let count = bytes.len() / T::LEN;
    if !bytes.len().is_multiple_of(T::LEN) || count > IDS_MAX {
        return Err(problem(Why::Usage, format!("{} bytes are no list of ids", bytes.len())));
    }
    Ok(bytes.chunks_exact(T::LEN).filter_map(T::of).collect())
}

/// One of them.
pub fn one<T: Id>(bytes: &[u8]) -> Result<T, Problem> {
    T::of(bytes).ok_or_else(|| problem(Why::Usage, format!("{} bytes are no id", bytes.len())))
}

/// Bytes of a fixed number.
pub fn fixed<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], Problem> {
    bytes.try_into().map_err(|_| problem(Why::Usage, format!("{what} has {} bytes, not {N}", bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::id::ChunkId;

    #[test]
    fn lists_go_there_and_back() {
        let ids = [ChunkId([1; 32]), ChunkId([2; 32])];
        assert_eq!(split::<ChunkId>(&join(&ids)).unwrap(), ids);
        assert_eq!(split::<ChunkId>(&[]).unwrap(), []);
        assert!(split::<ChunkId>(&[0; 33]).is_err());
        assert!(split::<ChunkId>(&vec![0; 32 * (IDS_MAX + 1)]).is_err());
        assert!(one::<ChunkId>(&[0; 31]).is_err());
        assert!(fixed::<4>(&[0; 3], "x").is_err());
    }
}
