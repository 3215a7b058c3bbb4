//! `docs/json.md` as a contract: its tables are read, and messages held against them.
//!
//! ```text
//! ## `verb`, `verb`            who the section is about; other headings: every verb
//! Sends `type` and `type`.     what these verbs may print; `Send nothing` for those without messages
//! ### `type`                   a message, or an object that stands in one
//! Every field of `type`, and   optional: the fields of another message, too; `verb`'s `type` where several have it
//! | field | value | when | meaning |
//! | `name`, `name` | bytes | | … |
//! ```
//!
//! A message that several verbs send is defined where it fits best; what a verb's own section defines goes first.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What a value may be.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Shape {
    Text,
    Id,
    Time,
    Path,
    Bool,
    Count,
    Fraction,
    Object,
    List(Box<Shape>),
    OrNull(Box<Shape>),
    /// An object with the fields of this heading.
    Part(String),
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    shape: Shape,
    is_always: bool,
}

#[derive(Clone, Default, Debug)]
struct Message {
    fields: Vec<Field>,
    /// A type, behind the verb that sends it or alone.
    like: Vec<String>,
}

#[derive(Clone, Default, Debug)]
struct Section {
    verbs: Vec<String>,
    sends: Vec<String>,
    sends_nothing: bool,
    messages: BTreeMap<String, Message>,
}

/// The document, and what of it was seen in messages.
#[derive(Debug)]
pub struct Doc {
    sections: Vec<Section>,
    /// Section, verb and type. Messages of any verb count for all.
    seen: BTreeSet<(usize, String, String)>,
    /// Section, type and field.
    seen_fields: BTreeSet<(usize, String, String)>,
}

impl Doc {
    /// Reads the document.
    ///
    /// # Errors
    /// A table or heading has another form; a message or verb stands there twice, or is named and not there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut sections: Vec<Section> = Vec::new();
        let mut name = None;
        let mut lines = text.lines().enumerate().peekable();
        while let Some((at, line)) = lines.next() {
            let told = |problem: String| format!("line {}: {problem}", at + 1);
            if let Some(heading) = line.strip_prefix("## ") {
                sections.push(Section { verbs: quoted(heading), ..Section::default() });
                name = None;
            } else if let (Some(heading), Some(section)) = (line.strip_prefix("### "), sections.last_mut()) {
                let heading = one_quoted(heading).map_err(told)?;
                if section.messages.insert(heading.clone(), Message::default()).is_some() {
                    return Err(told(format!("`{heading}` is there already")));
                }
                name = Some(heading);
            } else if let (true, None, Some(section)) = (line.starts_with("Send"), &name, sections.last_mut()) {
                section.sends_nothing = line.starts_with("Send nothing") || line.starts_with("Sends nothing");
                section.sends.extend(types_in(line));
                while let Some((_, more)) = lines.next_if(|(_, line)| !line.is_empty()) {
                    section.sends.extend(types_in(more));
                }
            } else if let (Some(name), Some(section)) = (&name, sections.last_mut()) {
                let message = section.messages.entry(name.clone()).or_default();
                read_line(message, line).map_err(told)?;
            }
        }
        let doc = Self { sections, seen: BTreeSet::new(), seen_fields: BTreeSet::new() };
        doc.check()?;
        Ok(doc)
    }

    fn check(&self) -> Result<(), String> {
        let mut verbs = BTreeSet::new();
        for section in &self.sections {
            for verb in &section.verbs {
                if !verbs.insert(verb) {
                    return Err(format!("{verb} has two sections"));
                }
                if section.sends.is_empty() != section.sends_nothing {
                    return Err(format!("the section of {verb} does not say what it sends"));
                }
                for sent in &section.sends {
                    self.define(verb, sent)?;
                }
            }
            for (name, message) in &section.messages {
                let is_used = section.verbs.is_empty() || self.is_named(name);
                if !is_used {
                    return Err(format!("`{name}` is described and sent by no verb"));
                }
                self.like(message)?;
                for field in &message.fields {
                    self.check_part(&field.shape)?;
                }
            }
        }
        Ok(())
    }

    fn check_part(&self, shape: &Shape) -> Result<(), String> {
        match shape {
            Shape::List(of) | Shape::OrNull(of) => self.check_part(of),
            Shape::Part(name) => self.somewhere(name).map(drop),
            _ => Ok(()),
        }
    }

    /// Whether somebody sends it or holds it.
    fn is_named(&self, name: &str) -> bool {
        let in_shape = |field: &Field| format!("{:?}", field.shape).contains(&format!("{name:?}"));
        let mut messages = self.sections.iter().flat_map(|section| section.messages.values());
        self.sections.iter().any(|section| section.sends.iter().any(|sent| sent == name))
            || messages.any(|message| message.fields.iter().any(in_shape))
    }

    /// Whether a verb, or the noun it belongs to, has a section.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.section(verb).is_some()
    }

    /// Every verb that has a section.
    pub fn verbs(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().flat_map(|section| section.verbs.iter().map(String::as_str))
    }

    /// Whether a type of message is described anywhere.
    pub fn has_message(&self, name: &str) -> bool {
        self.sections.iter().any(|section| section.messages.contains_key(name))
    }

    fn section(&self, verb: &str) -> Option<usize> {
        let named = |verb: &str| self.sections.iter().position(|section| section.verbs.iter().any(|own| own == verb));
        named(verb).or_else(|| named(verb.split(' ').next()?))
    }

    /// The section that defines a message of a verb.
    fn define(&self, verb: &str, name: &str) -> Result<usize, String> {
        let own = self.section(verb).ok_or_else(|| format!("{verb} has no section"))?;
        if self.sections[own].messages.contains_key(name) {
            return Ok(own);
        }
        let general = |section: &Section| section.verbs.is_empty() && section.messages.contains_key(name);
        if let Some(at) = self.sections.iter().position(general) {
            return Ok(at);
        }
        match self.sections[own].sends.iter().any(|sent| sent == name) {
            true => self.somewhere(name),
            false => Err(format!("{verb} sends `{name}`, which its section does not name")),
        }
    }

    /// The only section that defines a message.
    fn somewhere(&self, name: &str) -> Result<usize, String> {
        let mut found = (0..self.sections.len()).filter(|at| self.sections[*at].messages.contains_key(name));
        match (found.next(), found.next()) {
            (Some(at), None) => Ok(at),
            (None, _) => Err(format!("`{name}` is not described")),
            (Some(_), Some(_)) => Err(format!("`{name}` is described more than once, and for another verb")),
        }
    }

    /// The message whose fields another one has, too.
    fn like(&self, message: &Message) -> Result<Option<(usize, String)>, String> {
        match message.like.as_slice() {
            [] => Ok(None),
            [name] => Ok(Some((self.somewhere(name)?, name.clone()))),
            [verb, name, ..] => Ok(Some((self.define(verb, name)?, name.clone()))),
        }
    }

    /// Holds one line that `verb` printed against the document.
    ///
    /// # Errors
    /// What does not fit.
    pub fn hold(&mut self, verb: &str, line: &str) -> Result<(), String> {
        let told = |problem: String| format!("{verb}: {problem}: {line}");
        let value: Value = serde_json::from_str(line).map_err(|error| told(error.to_string()))?;
        let Value::Object(mut fields) = value else { return Err(told("it is no object".to_owned())) };
        let name = fields.remove("message_type").and_then(|name| name.as_str().map(str::to_owned));
        let name = name.ok_or_else(|| told("it has no type".to_owned()))?;
        if !line.starts_with(&format!("{{\"message_type\":\"{name}\"")) {
            return Err(told("its type does not come first".to_owned()));
        }
        let at = self.define(verb, &name).map_err(told)?;
        let whose = if self.sections[at].verbs.is_empty() { String::new() } else { self.own_name(verb) };
        self.seen.insert((at, whose, name.clone()));
        self.hold_object(at, &name, fields).map_err(|problem| told(format!("`{name}`: {problem}")))
    }

    fn own_name(&self, verb: &str) -> String {
        let first = || verb.split(' ').next().unwrap_or_default();
        let is_listed = self.verbs().any(|own| own == verb);
        if is_listed { verb.to_owned() } else { first().to_owned() }
    }

    fn hold_object(&mut self, at: usize, name: &str, mut fields: Map<String, Value>) -> Result<(), String> {
        let mut defined = vec![(at, name.to_owned())];
        if let Some(message) = self.sections[at].messages.get(name) {
            defined.extend(self.like(message)?);
        }
        for (at, name) in defined {
            let message = self.sections[at].messages.get(&name).cloned().unwrap_or_default();
            for field in message.fields {
                let Some(value) = fields.remove(&field.name) else {
                    match field.is_always {
                        true => return Err(format!("`{}` is missing", field.name)),
                        false => continue,
                    }
                };
                let odd = match field.shape {
                    Shape::Path => fields.remove(&format!("{}_b64", field.name)),
                    _ => None,
                };
                self.hold_value(&field.shape, &value, odd.as_ref())
                    .map_err(|problem| format!("`{}` {problem}", field.name))?;
                self.seen_fields.insert((at, name.clone(), field.name));
            }
        }
        match fields.keys().next() {
            Some(field) => Err(format!("`{field}` is not described")),
            None => Ok(()),
        }
    }

    fn hold_value(&mut self, shape: &Shape, value: &Value, odd: Option<&Value>) -> Result<(), String> {
        let text = value.as_str();
        let fits = match shape {
            Shape::Text => text.is_some(),
            Shape::Id => text.is_some_and(|text| !text.is_empty() && text.bytes().all(is_hex)),
            Shape::Time => text.is_some_and(is_time),
            Shape::Path => text.is_some_and(|text| match odd {
                None => !text.contains('\u{fffd}'),
                Some(odd) => text.contains('\u{fffd}') && odd.as_str().is_some_and(is_base64),
            }),
            Shape::Bool => value.is_boolean(),
            Shape::Count => value.is_u64(),
            Shape::Fraction => value.is_f64(),
            Shape::Object => value.is_object(),
            Shape::OrNull(of) if !value.is_null() => return self.hold_value(of, value, odd),
            Shape::OrNull(_) => true,
            Shape::List(of) => {
                let Some(list) = value.as_array() else { return Err(format!("is no list: {value}")) };
                return list.iter().try_for_each(|value| self.hold_value(of, value, None));
            }
            Shape::Part(name) => {
                let Some(object) = value.as_object() else { return Err(format!("is no object: {value}")) };
                return self.hold_object(self.somewhere(name)?, name, object.clone());
            }
        };
        if fits { Ok(()) } else { Err(format!("is no {shape:?}: {value}")) }
    }

    /// What is described and was not seen: messages as `verb: type`, and fields as `type.field`.
    pub fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        for (at, section) in self.sections.iter().enumerate() {
            for verb in &section.verbs {
                for name in &section.sends {
                    let is_seen = self.seen.iter().any(|(_, whose, seen)| (whose, seen) == (verb, name));
                    if !is_seen && !self.is_general(name) {
                        unseen.push(format!("{verb}: {name}"));
                    }
                }
            }
            for (name, message) in &section.messages {
                if section.verbs.is_empty() && !self.seen.contains(&(at, String::new(), name.clone())) {
                    unseen.push(format!("any verb: {name}"));
                }
                let is_unseen = |field: &&Field| !self.seen_fields.contains(&(at, name.clone(), field.name.clone()));
                unseen.extend(message.fields.iter().filter(is_unseen).map(|field| format!("{name}.{}", field.name)));
            }
        }
        unseen
    }

    fn is_general(&self, name: &str) -> bool {
        self.sections.iter().any(|section| section.verbs.is_empty() && section.messages.contains_key(name))
    }
}

/// A line below the heading of a message.
fn read_line(message: &mut Message, line: &str) -> Result<(), String> {
    if line.starts_with("Every field of") || line.starts_with("Like ") {
        message.like = quoted(line);
        return Ok(());
    }
    let Some(row) = line.strip_prefix('|') else { return Ok(()) };
    let cells: Vec<&str> = row.trim_end().trim_end_matches('|').split('|').map(str::trim).collect();
    let [names, value, when, _meaning] = cells[..] else {
        return Err(format!("a row has field, value, when and meaning, this one {} columns", cells.len()));
    };
    if names == "field" || names.starts_with("---") {
        return Ok(());
    }
    let names = quoted(names);
    if names.is_empty() {
        return Err("a row names no field".to_owned());
    }
    for name in names {
        if message.fields.iter().any(|field| field.name == name) {
            return Err(format!("`{name}` has two rows"));
        }
        message.fields.push(Field { name, shape: shape(value)?, is_always: when.is_empty() });
    }
    Ok(())
}

fn shape(text: &str) -> Result<Shape, String> {
    if let Some(of) = text.strip_suffix(" or null") {
        return Ok(Shape::OrNull(Box::new(shape(of)?)));
    }
    if let Some(of) = text.strip_prefix("list of ") {
        return Ok(Shape::List(Box::new(shape(of)?)));
    }
    Ok(match text {
        "text" => Shape::Text,
        "id" => Shape::Id,
        "time" => Shape::Time,
        "path" => Shape::Path,
        "bool" => Shape::Bool,
        "count" | "bytes" => Shape::Count,
        "seconds" | "percent" => Shape::Fraction,
        "object" => Shape::Object,
        part => Shape::Part(one_quoted(part).map_err(|_| format!("{text:?} is no value the document explains"))?),
    })
}

/// The types that a line names; a flag is none.
fn types_in(line: &str) -> impl Iterator<Item = String> {
    quoted(line).into_iter().filter(|word| !word.starts_with('-'))
}

/// The words between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn one_quoted(text: &str) -> Result<String, String> {
    match quoted(text).as_slice() {
        [one] if text == format!("`{one}`") => Ok(one.clone()),
        _ => Err(format!("{text:?} is not one word between backticks")),
    }
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// `2026-11-22T19:27:14.5Z`.
fn is_time(text: &str) -> bool {
    let Some((whole, fraction)) = text.strip_suffix('Z').map(|text| text.split_once('.').unwrap_or((text, "0"))) else {
        return false;
    };
    let form = whole.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    form.eq(*b"0000-00-00T00:00:00") && !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_base64(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n\n## Any verb\n\n### `warning`\n\n| field | value | when | meaning |\n|---|---|---|---|\n\
        | `path` | path | if there is one | |\n\n\
        ## `ls`\n\nSends `snapshot`,\nand with `--all` `node`.\n\n### `snapshot`\n\n| `id` | id | | |\n\n\
        ### `node`\n\nProse.\n\n| `a`, `b` | bytes | | |\n| `c` | list of `pair` or null | sometimes | |\n\n\
        ### `pair`\n\n| `at` | time | | |\n\n\
        ## `find`, `key`\n\nSends `match`, and `snapshot`.\n\n### `match`\n\nEvery field of `node`, and\n\n| `in` | id | | |\n\n\
        ## `dump`\n\nSends nothing.\n\n\
        ## `count`\n\nSends `match` and `all`.\n\n### `match`\n\n| `share` | percent | | |\n\n\
        ### `all`\n\nEvery field of `find`'s `match`.\n";

    #[test]
    fn lines_are_held_against_tables() {
        let mut doc = Doc::parse(TEXT).unwrap();
        let mut check = |verb: &str, line: &str, expected: Option<&str>| match (doc.hold(verb, line), expected) {
            (Ok(()), None) => {}
            (Err(problem), Some(word)) if problem.contains(word) => {}
            (found, _) => panic!("{verb} {line}: {found:?}, not {expected:?}"),
        };
        check("ls", r#"{"message_type":"node","a":1,"b":0}"#, None);
        check("ls", r#"{"message_type":"node","a":1,"b":0,"c":null}"#, None);
        check("ls", r#"{"message_type":"node","a":1,"b":0,"c":[null]}"#, Some("is no object"));
        check("ls", r#"{"message_type":"node","a":1,"b":0,"c":[{"at":"2026-11-22T19:27:14.5Z"}]}"#, None);
        check("ls", r#"{"message_type":"node","a":1,"b":0,"c":[{"at":"yesterday"}]}"#, Some("is no Time"));
        check("ls", r#"{"message_type":"node","a":1}"#, Some("`b` is missing"));
        check("ls", r#"{"message_type":"node","a":-1,"b":0}"#, Some("`a` is no Count"));
        check("ls", r#"{"message_type":"node","a":1,"b":0,"d":0}"#, Some("`d` is not described"));
        check("ls", r#"{"a":1,"message_type":"node","b":0}"#, Some("does not come first"));
        check("ls", r#"{"message_type":"match","a":1,"b":0,"in":"0a"}"#, Some("does not name"));
        check("find", r#"{"message_type":"match","a":1,"b":0,"in":"0a"}"#, None);
        check("find", r#"{"message_type":"match","a":1,"b":0,"in":"0A"}"#, Some("is no Id"));
        check("key list", r#"{"message_type":"snapshot","id":"0a"}"#, None);
        check("dump", r#"{"message_type":"snapshot","id":"0a"}"#, Some("does not name"));
        check("pin", r#"{"message_type":"warning"}"#, Some("has no section"));
        check("dump", "{\"message_type\":\"warning\",\"path\":\"\u{fffd}\"}", Some("is no Path"));
        check("count", r#"{"message_type":"match","share":12.5}"#, None);
        check("count", r#"{"message_type":"match","share":12}"#, Some("`share` is no Fraction"));
        check("count", r#"{"message_type":"all","in":"0a"}"#, None);
        check("count", r#"{"message_type":"all","share":12.5}"#, Some("`in` is missing"));
        assert!(doc.unseen().contains(&"warning.path".to_owned()));
        doc.hold("dump", "{\"message_type\":\"warning\",\"path\":\"\u{fffd}\",\"path_b64\":\"/w==\"}").unwrap();
        assert_eq!(doc.unseen(), ["ls: snapshot", "find: snapshot", "key: match"]);
        assert!(doc.has_verb("key add") && !doc.has_verb("pin") && doc.has_message("pair"));
    }

    #[test]
    fn what_is_no_such_document_is_refused() {
        let check = |from: &str, to: &str, expected: &str| {
            let problem = Doc::parse(&TEXT.replace(from, to)).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        check("| bytes |", "| octets |", "octets");
        check("Sends nothing.", "", "does not say");
        check("`dump`", "`find`", "two sections");
        check("| `id` | id | | |", "| `id` | id | |", "3 columns");
        check("`a`, `b`", "`a`, `a`", "two rows");
        check("### `pair`", "### `pear`", "`pair` is not described");
        check("| list of `pair` or null |", "| bytes |", "`pair` is described and sent by no verb");
        check("Sends `match`,", "Sends `match`, `much`,", "`much` is not described");
    }
}
