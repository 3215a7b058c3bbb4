//! Cap'n Proto in canonical form: one segment without a table, one way to write each value.
//!
//! Readers refuse bytes in any other form, so equal values are equal bytes and hashes of them mean something.

use capnp::Word;
use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions, ReaderSegments};

/// Pointers followed inside each other before a message counts as hostile; ours nest 3 deep.
const NESTING_MAX: i32 = 16;

/// Words counted while reading for each word of the message; ours are read about once, after one check.
const TRAVERSAL_FACTOR: usize = 8;

/// Words counted for whatever message: elements of lists count even where they take no room.
const TRAVERSAL_LEAST: usize = 8192;

/// Bytes that are not a canonical message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// A message is whole words, at least the root pointer.
    #[error("message has {found} bytes, expected a multiple of 8, at least 8")]
    Length {
        /// Bytes there are.
        found: usize,
    },
    /// Not the one form a value has.
    #[error("message is not in canonical form")]
    Form,
    /// Cap'n Proto refuses it.
    #[error("message cannot be read: {0}")]
    Malformed(String),
}

impl From<capnp::Error> for CanonicalError {
    fn from(error: capnp::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<capnp::NotInSchema> for CanonicalError {
    fn from(error: capnp::NotInSchema) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<std::str::Utf8Error> for CanonicalError {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Aligned bytes of a message.
pub struct Segment(Vec<Word>);

impl ReaderSegments for Segment {
    fn get_segment(&self, id: u32) -> Option<&[u8]> {
        (id == 0).then(|| Word::words_to_bytes(&self.0))
    }

    fn len(&self) -> usize {
        1
    }
}

/// The canonical bytes of a message just built.
pub fn encode(message: Builder<HeapAllocator>) -> Vec<u8> {
    let words = message.into_reader().canonicalize().expect("a message just built is well formed");
    Word::words_to_bytes(&words).to_vec()
}

/// Opens canonical bytes; the caller has bounded their length.
pub fn decode(bytes: &[u8]) -> Result<Reader<Segment>, CanonicalError> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(size_of::<Word>()) {
        return Err(CanonicalError::Length { found: bytes.len() });
    }
    let mut words = Word::allocate_zeroed_vec(bytes.len() / size_of::<Word>());
    Word::words_to_bytes_mut(&mut words).copy_from_slice(bytes);
    let limit = words.len().saturating_mul(TRAVERSAL_FACTOR).saturating_add(TRAVERSAL_LEAST);
    let options = ReaderOptions { traversal_limit_in_words: Some(limit), nesting_limit: NESTING_MAX };
    let reader = Reader::new(Segment(words), options);
    if !reader.is_canonical()? {
        return Err(CanonicalError::Form);
    }
    Ok(reader)
}
