//! A stream that is backed up: standard input, or what a command prints.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use twinkeep_engine::progress::Progress;

/// How long a read waits before it looks whether the user wants to end.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Where the bytes come from; a read ends with an error when the progress is cancelled or the command fails.
pub struct Input {
    from: From,
    progress: Arc<Progress>,
}

enum From {
    Stdin(io::Stdin),
    Command { name: String, child: Child, output: ChildStdout, is_done: bool },
}

impl Input {
    /// Standard input.
    pub fn stdin(progress: Arc<Progress>) -> Self {
        Self { from: From::Stdin(io::stdin()), progress }
    }

    /// What a command prints; its input is ours.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn command(command: &[OsString], progress: Arc<Progress>) -> anyhow::Result<Self> {
        let (program, args) = command.split_first().context("there is no command")?;
        let name = program.to_string_lossy().into_owned();
        let starting = || format!("cannot start {name}");
        let mut child = Command::new(program).args(args).stdout(Stdio::piped()).spawn().with_context(starting)?;
        let output = child.stdout.take().with_context(starting)?;
        Ok(Self { from: From::Command { name, child, output, is_done: false }, progress })
    }

    /// Waits until there is something to read.
    fn wait(&self) -> io::Result<()> {
        let fd: BorrowedFd<'_> = match &self.from {
            From::Stdin(stdin) => stdin.as_fd(),
            From::Command { output, .. } => output.as_fd(),
        };
        loop {
            if self.progress.is_cancelled() {
                return Err(io::Error::other("interrupted"));
            }
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&WAIT)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &self.from {
            From::Command { is_done: true, .. } => return Ok(0),
            _ => self.wait()?,
        }
        match &mut self.from {
            From::Stdin(stdin) => stdin.read(bytes),
            From::Command { name, child, output, is_done } => {
                let len = output.read(bytes)?;
                if len == 0 && !bytes.is_empty() {
                    let status = child.wait()?;
                    if !status.success() {
                        return Err(io::Error::other(format!("the command {name} failed: {status}")));
                    }
                    *is_done = true;
                }
                Ok(len)
            }
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let From::Command { child, is_done: false, .. } = &mut self.from {
            // The backup ended early: nobody wants the rest.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(script: &str) -> io::Result<Vec<u8>> {
        let command = ["/bin/sh", "-c", script].map(OsString::from);
        let mut bytes = Vec::new();
        Input::command(&command, Progress::silent()).unwrap().read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn commands_must_succeed_and_cancelling_ends_them() {
        assert_eq!(output("echo hello").unwrap(), b"hello\n");
        assert!(output("echo hello; exit 2").unwrap_err().to_string().contains("exit status: 2"));
        assert!(Input::command(&["/does/not/exist".into()], Progress::silent()).is_err());
        let progress = Progress::silent();
        progress.cancel();
        let mut input = Input::command(&["sleep".into(), "60".into()], progress).unwrap();
        assert!(input.read(&mut [0; 8]).is_err());
    }
}
