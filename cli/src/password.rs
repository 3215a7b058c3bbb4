//! Passwords and recovery words: where they come from. Wiped from memory when dropped.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use twinkeep_engine::crypto::VaultSecret;
use zeroize::Zeroizing;

use crate::args::Globals;
use crate::dirs::Var;
use crate::error::{Code, told, usage};

/// Longest password or file of recovery words, bytes.
const SECRET_LEN_MAX: u64 = 4096;

/// A password, wiped when dropped.
pub type Password = Zeroizing<String>;

/// The password that flags or environment name; `None` when they name none.
pub fn given(globals: &Globals, var: Var<'_>) -> anyhow::Result<Option<Password>> {
    if let Some(password) = from_either(globals.password_file.as_deref(), globals.password_command.as_deref())? {
        return Ok(Some(password));
    }
    match var("TWINKEEP_PASSWORD").filter(|value| !value.is_empty()) {
        Some(value) => {
            let text = value.into_string().map_err(|_| usage("TWINKEEP_PASSWORD is not UTF-8"))?;
            Ok(Some(Zeroizing::new(text)))
        }
        None => Ok(None),
    }
}

/// The first line of a file, or of what a command prints; `None` where neither is named.
pub fn from_either(file: Option<&Path>, command: Option<&str>) -> anyhow::Result<Option<Password>> {
    match from_file(file, "password")? {
        Some(password) => Ok(Some(password)),
        None => command.map(from_command).transpose(),
    }
}

/// The first line of a file that holds `what`; `None` where none is named.
pub fn from_file(file: Option<&Path>, what: &str) -> anyhow::Result<Option<Password>> {
    let Some(path) = file else { return Ok(None) };
    let from = || format!("cannot read the {what} from {}", path.display());
    let file = File::open(path).with_context(from)?;
    first_line(file).with_context(from).and_then(|line| not_empty(line, &path.display())).map(Some)
}

/// The secret that a file of recovery words says.
pub fn recovery_secret(path: &Path) -> anyhow::Result<VaultSecret> {
    let from = || format!("cannot use the recovery words in {}", path.display());
    let mut text = Zeroizing::new(String::new());
    let len =
        File::open(path).with_context(from)?.take(SECRET_LEN_MAX + 1).read_to_string(&mut text).with_context(from)?;
    if len as u64 > SECRET_LEN_MAX {
        return Err(told(Code::WrongKey, "the file is too long")).with_context(from);
    }
    VaultSecret::from_words(&unframed(&text)).map_err(|error| told(Code::WrongKey, format!("{}: {error}", from())))
}

/// Only what stands in the frame, where somebody kept the whole screen on which the words were shown.
fn unframed(text: &str) -> Zeroizing<String> {
    let framed = text.lines().filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
    let mut inside = Zeroizing::new(String::with_capacity(text.len()));
    for line in framed {
        inside.push_str(line);
        inside.push('\n');
    }
    if inside.is_empty() {
        inside.push_str(text);
    }
    inside
}

/// Whether somebody can be asked.
pub fn can_ask() -> bool {
    terminal().is_some()
}

/// Asks on the terminal, without showing what is typed.
pub fn ask(question: &str) -> anyhow::Result<Password> {
    let mut terminal = terminal().ok_or_else(|| told(Code::WrongKey, "there is no terminal to ask on"))?;
    write!(terminal, "{question}: ").and_then(|()| terminal.flush()).context("cannot write to the terminal")?;
    let line = {
        let _silence = Silence::begin(&terminal)?;
        first_line(terminal.try_clone().context("cannot read from the terminal")?)
    };
    writeln!(terminal).context("cannot write to the terminal")?;
    not_empty(line.context("cannot read from the terminal")?, &"the terminal")
}

/// Asks for a new password, twice.
pub fn ask_new() -> anyhow::Result<Password> {
    let first = ask("new password")?;
    let second = ask("once more")?;
    if *first == *second { Ok(first) } else { Err(told(Code::Usage, "the two passwords differ")) }
}

/// Asks a question that yes or no answers; no where nobody can be asked.
pub fn confirm(question: &str) -> anyhow::Result<bool> {
    let Some(mut terminal) = terminal() else { return Ok(false) };
    write!(terminal, "{question} [y/N] ").and_then(|()| terminal.flush()).context("cannot write to the terminal")?;
    let answer = first_line(terminal).context("cannot read from the terminal")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn terminal() -> Option<File> {
    File::options().read(true).write(true).open("/dev/tty").ok()
}

fn not_empty(line: Password, place: &dyn std::fmt::Display) -> anyhow::Result<Password> {
    if line.is_empty() { Err(told(Code::WrongKey, format!("the password from {place} is empty"))) } else { Ok(line) }
}

/// Up to the first line break, which may be `\r\n`.
fn first_line(from: impl Read) -> std::io::Result<Password> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_LEN_MAX as usize + 1));
    let mut reader = BufReader::with_capacity(256, from.take(SECRET_LEN_MAX + 1));
    reader.read_until(b'\n', &mut bytes)?;
    if bytes.len() as u64 > SECRET_LEN_MAX {
        return Err(std::io::Error::other(format!("it is longer than {SECRET_LEN_MAX} bytes")));
    }
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| std::io::Error::other("it is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn from_command(command: &str) -> anyhow::Result<Password> {
    let failed = || format!("the password command `{command}` failed");
    let mut shell = Command::new("/bin/sh");
    let mut child =
        shell.arg("-c").arg(command).stdin(Stdio::inherit()).stdout(Stdio::piped()).spawn().with_context(failed)?;
    let mut output = child.stdout.take().context("the password command has no output").with_context(failed)?;
    let line = first_line(&mut output);
    // The rest is read too, for a command whose output is closed early fails.
    let _ = std::io::copy(&mut output, &mut std::io::sink());
    let status = child.wait().with_context(failed)?;
    if !status.success() {
        return Err(told(Code::WrongKey, format!("{}: {status}", failed())));
    }
    not_empty(line.with_context(failed)?, &"the password command")
}

/// The terminal shows nothing that is typed until this is dropped.
struct Silence<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn begin(terminal: &'a File) -> anyhow::Result<Self> {
        let before = tcgetattr(terminal).context("cannot ask the terminal how it is set")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL & before.local_modes);
        tcsetattr(terminal, OptionalActions::Flush, &silent).context("cannot silence the terminal")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to put right.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts() {
        let check = |bytes: &[u8], expected: Option<&str>| {
            assert_eq!(first_line(bytes).ok().as_deref().map(String::as_str), expected, "{bytes:?}");
        };
        check(b"secret\n", Some("secret"));
        check(b"secret", Some("secret"));
        check(b" se cret \r\nmore", Some(" se cret "));
        check(b"", Some(""));
        check(b"\xff\n", None);
        check(&[b'a'; 4097], None);
    }

    #[test]
    fn commands_must_succeed() {
        assert_eq!(from_command("echo hello; echo more").unwrap().as_str(), "hello");
        assert!(from_command("echo hello; exit 3").is_err());
        assert!(from_command("true").is_err());
    }
}
