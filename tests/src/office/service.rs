//! A service as a process of its own.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// What a service prints once it can be used.
const READY: &str = "{\"message_type\":\"ready\"";

/// Nothing takes longer to end than this.
const ENDS: Duration = Duration::from_secs(30);

/// A process that ends with this.
pub struct Service {
    child: Child,
    log: PathBuf,
    /// Where in the log this run begins.
    from: usize,
}

impl Service {
    /// Starts it; what it prints goes to the end of a file.
    pub fn begin(mut command: Command, log: &Path) -> Self {
        let open = || -> File { OpenOptions::new().create(true).append(true).open(log).expect("a log can be written") };
        let from = open().metadata().expect("a file has a length").len() as usize;
        let child = command.stdout(open()).stderr(open()).spawn().expect("the service starts");
        Self { child, log: log.to_owned(), from }
    }

    fn said(&self) -> String {
        let all = fs::read(&self.log).expect("a log can be read");
        String::from_utf8_lossy(all.get(self.from..).unwrap_or_default()).into_owned()
    }

    /// Whether it has said so.
    ///
    /// # Panics
    /// It has ended instead.
    pub fn is_ready(&mut self) -> bool {
        let ended = self.child.try_wait().expect("look at the service");
        let said = self.said();
        assert!(ended.is_none(), "the service ended with {ended:?}: {said}");
        said.lines().any(|line| line.starts_with(READY) && line.ends_with('}'))
    }

    /// Kills it. Until it is waited for, its id is nobody else's.
    pub fn kill(mut self) {
        self.end();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("send a signal");
    }

    /// Asks it to end; its exit code.
    ///
    /// # Panics
    /// It does not.
    pub fn terminate(self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits until it has ended; its exit code.
    ///
    /// # Panics
    /// It does not end.
    pub fn ended(mut self) -> Option<i32> {
        super::until("the service ends", ENDS, || self.child.try_wait().expect("look at the service")).code()
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end by itself just now, which is as well.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}
