//! Errors as they cross the wire: a word that programs tell apart, and words for people.

use capnp::{Error, ErrorKind};
use twinkeep_engine::kv::KvError;
use twinkeep_engine::store::{RemoteKind, StoreError};

/// Why something was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The caller may not do this.
    NotAllowed,
    /// Wrong name, password, key or token. Never says which.
    WrongKey,
    /// What was asked for makes no sense.
    Usage,
    /// The account's room is used up.
    Quota,
    /// The disk is full.
    NoSpace,
    /// Somebody else works on it.
    Busy,
    /// What was asked for is not there.
    NotFound,
    /// The frame was taken apart: ask for the chunk's place again.
    Gone,
    /// Something stored is damaged.
    Damaged,
    /// The session failed before.
    SessionFailed,
    /// Nobody who could answer can be reached.
    Unreachable,
    /// Who could answer is away on purpose and comes back.
    Away,
    /// Anything else.
    Other,
}

const WORDS: [(Why, &str); 13] = [
    (Why::NotAllowed, "not-allowed"),
    (Why::WrongKey, "wrong-key"),
    (Why::Usage, "usage"),
    (Why::Quota, "quota"),
    (Why::NoSpace, "no-space"),
    (Why::Busy, "busy"),
    (Why::NotFound, "not-found"),
    (Why::Gone, "gone"),
    (Why::Damaged, "damaged"),
    (Why::SessionFailed, "session-failed"),
    (Why::Unreachable, "unreachable"),
    (Why::Away, "away"),
    (Why::Other, "other"),
];

/// An error with its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Problem {
    /// For programs.
    pub why: Why,
    /// For people.
    pub text: String,
}

/// Makes a problem.
pub fn problem(why: Why, text: impl Into<String>) -> Problem {
    Problem { why, text: text.into() }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let word = WORDS.iter().find(|(why, _)| *why == problem.why).map_or("other", |(_, word)| *word);
        Self::failed(format!("twinkeep/{word}: {}", problem.text))
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        if let Some((_, told)) = error.extra.split_once("twinkeep/")
            && let Some((word, text)) = told.split_once(": ")
            && let Some((why, _)) = WORDS.iter().find(|(_, known)| *known == word)
        {
            return problem(*why, text);
        }
        match error.kind {
            // The second when the other side hangs up without a word.
            ErrorKind::Disconnected | ErrorKind::PrematureEndOfFile => {
                problem(Why::Unreachable, "the connection is gone")
            }
            ErrorKind::Unimplemented => problem(Why::Other, "the other side is of an older version and cannot do this"),
            _ => problem(Why::Other, error.to_string()),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let why = match &error {
            error if error.is_no_space() => Why::NoSpace,
            StoreError::Busy { .. } => Why::Busy,
            StoreError::Gone { .. } => Why::Gone,
            StoreError::SessionFailed => Why::SessionFailed,
            StoreError::TooManyClaims => Why::Usage,
            StoreError::DamagedFrame { .. } | StoreError::Index(KvError::Damaged(_)) => Why::Damaged,
            _ => Why::Other,
        };
        let mut text = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            text = format!("{text}: {cause}");
        }
        problem(why, text)
    }
}

impl From<Problem> for StoreError {
    fn from(problem: Problem) -> Self {
        let kind = match problem.why {
            Why::SessionFailed => return Self::SessionFailed,
            Why::Busy => return Self::Busy { what: "store", owner: problem.text },
            Why::NotAllowed | Why::WrongKey => RemoteKind::NotAllowed,
            Why::Quota => RemoteKind::Quota,
            Why::NoSpace => RemoteKind::NoSpace,
            Why::Unreachable | Why::Away => RemoteKind::Unreachable,
            Why::Usage | Why::NotFound | Why::Gone | Why::Damaged | Why::Other => RemoteKind::Other,
        };
        Self::Remote { kind, problem: problem.text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_comes_back() {
        for (why, word) in WORDS {
            let sent = problem(why, format!("about {word}: details"));
            assert_eq!(Problem::from(&Error::from(sent.clone())), sent);
            let mut told = Error::from(sent.clone());
            told.extra = format!("remote exception: Failed: {}", told.extra);
            assert_eq!(Problem::from(&told), sent);
        }
        assert_eq!(Problem::from(Error::disconnected("x".into())).why, Why::Unreachable);
        let end = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(Problem::from(Error::from(end)).why, Why::Unreachable);
        assert_eq!(Problem::from(Error::failed("twinkeep/odd".into())).why, Why::Other);
    }
}
