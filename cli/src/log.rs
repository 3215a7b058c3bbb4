//! What services say of their work, on standard error, a line each.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::session::Run;
use crate::show;

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// Time, level, message and fields, for people
    Text,
    /// One JSON object
    Json,
}

/// From here on events are written: warnings with `-q`, what is done by default, everything with `-v`.
pub fn begin(run: &Run, format: Option<Format>) {
    let level = match (run.globals.quiet, run.globals.verbose) {
        (true, _) => Level::WARN,
        (false, 0) => Level::INFO,
        (false, _) => Level::DEBUG,
    };
    let format = format.unwrap_or(if run.globals.json { Format::Json } else { Format::Text });
    // Somebody else listens already, which is as good.
    let _ = tracing::subscriber::set_global_default(Lines { level, format });
}

struct Lines {
    level: Level,
    format: Format,
}

/// An event as it comes.
#[derive(Default)]
struct Parts {
    message: String,
    fields: Map<String, Value>,
}

impl Parts {
    fn put(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_owned(), value);
    }
}

impl Visit for Parts {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.put(field, format!("{value:?}").into()),
        }
    }
}

impl Format {
    /// The line of an event: time and level first, then the message, then the fields.
    fn line(self, now: jiff::Timestamp, level: Level, parts: Parts) -> String {
        let level = level.as_str().to_lowercase();
        match self {
            Self::Text => {
                let mut line = format!("{now:.3} {level:<5} {}", parts.message);
                for (name, value) in parts.fields {
                    let _ = match value.as_str() {
                        Some(text) => write!(line, " {name}={text}"),
                        None => write!(line, " {name}={value}"),
                    };
                }
                // Text in it may be anybody's: nothing of it ends the line.
                show::escaped(line.as_bytes()) + "\n"
            }
            Self::Json => {
                let rest = json!({
                    "time": format!("{now:.3}"),
                    "level": level,
                    "message": parts.message,
                    "fields": parts.fields,
                });
                let rest = rest.to_string();
                format!("{{\"message_type\":\"log\",{}\n", rest.trim_start_matches('{'))
            }
        }
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("twinkeep")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let line = self.format.line(jiff::Timestamp::now(), *event.metadata().level(), parts);
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let mut fields = Map::new();
        fields.insert("bytes".into(), 7.into());
        fields.insert("error".into(), "no\n\"way\"".into());
        Parts { message: "it fails".to_owned(), fields }
    }

    #[test]
    fn an_event_is_one_line_whatever_stands_in_it() {
        let line = |format: Format| format.line(jiff::Timestamp::UNIX_EPOCH, Level::WARN, parts());
        assert_eq!(line(Format::Text), "1970-01-01T00:00:00.000Z warn  it fails bytes=7 error=no\\n\"way\"\n");
        let json = line(Format::Json);
        assert!(json.starts_with("{\"message_type\":\"log\",") && json.ends_with("}\n"), "{json}");
        assert_eq!(json.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["fields"], json!({ "bytes": 7, "error": "no\n\"way\"" }));
        assert_eq!((&read["level"], &read["time"]), (&"warn".into(), &"1970-01-01T00:00:00.000Z".into()));
    }
}
