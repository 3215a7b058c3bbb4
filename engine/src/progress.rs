//! What a long run tells while it runs. The engine counts and reports; somebody else draws.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Something a run could not do, and went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about, as bytes of a path; empty when about no path.
    pub path: Vec<u8>,
    /// What happened.
    pub message: String,
}

type Warn = dyn Fn(&Warning) + Send + Sync;

/// Counters of a run, and the way to stop it. Read and written from any thread.
pub struct Progress {
    /// Files done, those found unchanged included.
    pub files_done: AtomicU64,
    /// Folders done.
    pub dirs_done: AtomicU64,
    /// Bytes of the files done.
    pub bytes_done: AtomicU64,
    /// Files in all; 0 while unknown.
    pub files_total: AtomicU64,
    /// Bytes in all; 0 while unknown.
    pub bytes_total: AtomicU64,
    /// Bytes written to the vault or to the restore target.
    pub bytes_written: AtomicU64,
    current: Mutex<Vec<u8>>,
    cancel: AtomicBool,
    warn: Box<Warn>,
}

impl Progress {
    /// Counters at zero; `warn` is called for each warning, from whichever thread met it.
    pub fn new(warn: impl Fn(&Warning) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            files_done: AtomicU64::new(0),
            dirs_done: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            files_total: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            current: Mutex::default(),
            cancel: AtomicBool::new(false),
            warn: Box::new(warn),
        })
    }

    /// Counters nobody listens to.
    pub fn silent() -> Arc<Self> {
        Self::new(|_| {})
    }

    /// The path being worked on.
    pub fn current(&self) -> Vec<u8> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the path being worked on.
    pub fn set_current(&self, path: Vec<u8>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// Asks the run to end soon; it then fails with a *cancelled* error and harms nothing.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Release);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }

    /// Reports a warning.
    pub fn warn(&self, path: impl Into<Vec<u8>>, message: impl Into<String>) {
        (self.warn)(&Warning { path: path.into(), message: message.into() });
    }

    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
