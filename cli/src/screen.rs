//! What the user sees: words for people, or one JSON object a line. Everything that is printed passes through here,
//! so that lines and a progress bar never mix.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::Globals;
use crate::error::{self, Code, stdout_error};
use crate::show;

/// Where words go. Shared by the worker threads that warn.
pub struct Screen {
    /// One JSON object a line instead of words.
    pub json: bool,
    /// Only warnings, errors and what was asked for.
    pub quiet: bool,
    /// How much more to tell.
    pub verbose: u8,
    /// Whether status is shown while something runs.
    pub has_progress: bool,
    /// Whether names go to a terminal and must be escaped.
    pub escapes: bool,
    bar: Mutex<Option<ProgressBar>>,
}

#[derive(Serialize)]
struct Message<'a> {
    message_type: &'a str,
    #[serde(flatten)]
    fields: &'a Value,
}

impl Screen {
    /// As the global flags say.
    pub fn new(globals: &Globals) -> Self {
        Self {
            json: globals.json,
            quiet: globals.quiet,
            verbose: globals.verbose,
            has_progress: !globals.no_progress && !globals.quiet,
            escapes: std::io::stdout().is_terminal(),
            bar: Mutex::new(None),
        }
    }

    /// Whether a bar may be drawn.
    pub fn has_bar(&self) -> bool {
        self.has_progress && !self.json && std::io::stderr().is_terminal()
    }

    /// Draws `bar` until another or none takes its place.
    pub fn set_bar(&self, bar: Option<ProgressBar>) {
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = bar;
    }

    /// A line the user asked for, to standard output.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        self.write_stdout(format!("{text}\n").as_bytes())
    }

    /// A line about what was done, to standard output; left out when quiet.
    pub fn tell(&self, text: &str) -> anyhow::Result<()> {
        if self.quiet || self.json { Ok(()) } else { self.line(text) }
    }

    /// A line about what is going on, to standard error, when told to be verbose.
    pub fn detail(&self, text: &str) {
        if self.verbose > 0 && !self.json {
            self.write_stderr(text);
        }
    }

    /// One JSON object, to standard output.
    pub fn message(&self, message_type: &str, fields: &Value) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&Message { message_type, fields })?;
        line.push(b'\n');
        self.write_stdout(&line)
    }

    /// Something is not as it should be, and the work goes on.
    pub fn warn(&self, path: Option<&[u8]>, message: &str) {
        if self.json {
            let mut fields = Map::new();
            fields.insert("message".into(), message.into());
            if let Some(path) = path {
                put_path(&mut fields, "path", path);
            }
            // Nobody reads standard output any more; the next message that matters finds out.
            let _ = self.message("warning", &Value::Object(fields));
            return;
        }
        let place = path.map(|path| format!("{}: ", show::escaped(path))).unwrap_or_default();
        self.write_stderr(&format!("twinkeep: warning: {place}{}", show::escaped(message.as_bytes())));
    }

    /// A line for the user's eyes only, to standard error, bar or not.
    pub fn notice(&self, text: &str) {
        self.write_stderr(text);
    }

    /// What is shown only once and must not be missed: words to standard error, with `json` a message instead. It has been
    /// written when this returns.
    pub fn once(&self, text: &str, message_type: &str, fields: &Value) -> std::io::Result<()> {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || {
            if !self.json {
                let mut stderr = std::io::stderr().lock();
                return writeln!(stderr, "{text}").and_then(|()| stderr.flush());
            }
            let mut line = serde_json::to_vec(&Message { message_type, fields })?;
            line.push(b'\n');
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&line).and_then(|()| stdout.flush())
        };
        match &*bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// The end of a failed run.
    pub fn failure(&self, error: &anyhow::Error) -> Code {
        let (code, hint) = error::judge(error);
        let message = error::one_line(error);
        if self.json {
            let fields = json!({ "code": code as u8, "message": message, "hint": hint });
            let line = serde_json::to_string(&Message { message_type: "exit_error", fields: &fields });
            self.write_stderr(&line.unwrap_or(message));
        } else {
            self.write_stderr(&format!("twinkeep: {}", escaped_lines(&message)));
            if let Some(hint) = hint {
                self.write_stderr(&format!("hint: {hint}"));
            }
        }
        code
    }

    /// A name as it may be printed: raw into a pipe, escaped on a terminal.
    pub fn name(&self, bytes: &[u8]) -> Vec<u8> {
        if self.escapes { show::escaped(bytes).into_bytes() } else { bytes.to_vec() }
    }

    /// Bytes of a line to standard output, the bar moved out of the way.
    pub fn write_stdout(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || std::io::stdout().write_all(bytes);
        match &*bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
        .map_err(stdout_error)
    }

    fn write_stderr(&self, text: &str) {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        // With standard error gone there is nowhere left to complain.
        let write = || drop(writeln!(std::io::stderr(), "{text}"));
        match &*bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// Escapes what could play with the terminal but keeps the lines of a longer message.
fn escaped_lines(text: &str) -> String {
    text.lines().map(|line| show::escaped(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

/// A path as fields: `name` as text, and `name_b64` when it is not UTF-8.
pub fn put_path(fields: &mut Map<String, Value>, name: &str, path: &[u8]) {
    fields.insert(name.into(), String::from_utf8_lossy(path).into());
    if std::str::from_utf8(path).is_err() {
        fields.insert(format!("{name}_b64"), data_encoding::BASE64.encode(path).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_comes_first_and_odd_paths_keep_their_bytes() {
        let mut fields = Map::new();
        put_path(&mut fields, "path", b"/a\xff");
        put_path(&mut fields, "aim", b"/a");
        let text = serde_json::to_string(&Message { message_type: "node", fields: &Value::Object(fields) }).unwrap();
        assert_eq!(text, r#"{"message_type":"node","aim":"/a","path":"/a�","path_b64":"L2H/"}"#);
    }
}
