//! Config file and environment as if they had been typed: what the command line leaves open is put in as arguments,
//! and clap itself parses and checks them. A flag beats the environment, which beats the file.
//!
//! | flag | key in the file | variable |
//! |---|---|---|
//! | `--cache-dir` | `cache-dir`, top level | `TWINKEEP_CACHE_DIR` |
//! | `backup --exclude` | `exclude` in `[backup]` | `TWINKEEP_BACKUP_EXCLUDE`, one a line |
//!
//! A list in a stronger place replaces the one in a weaker place.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::dirs::{self, Var};
use crate::error::{Code, hinted, usage};

/// Longest config file, bytes: far more than all flags together.
const CONFIG_LEN_MAX: u64 = 1 << 20;

/// Parses the command line with what environment and file add. An error of clap's stays one.
pub fn parse(command: &Command, argv: Vec<OsString>, var: Var<'_>) -> anyhow::Result<ArgMatches> {
    let typed = command.clone().ignore_errors(true).try_get_matches_from(&argv)?;
    let Some((verb_name, typed_verb)) = typed.subcommand() else {
        return Ok(command.clone().try_get_matches_from(argv)?);
    };
    let file = read_file(typed.get_one::<PathBuf>("config"), var)?;
    check_keys(command, &file)?;
    let mut built = command.clone();
    built.build();
    let verb = built.find_subcommand(verb_name).ok_or_else(|| usage(format!("no verb {verb_name}")))?;

    let globals = Scope { command: &built, typed: typed_verb, prefix: "TWINKEEP_".to_owned(), table: Some(&file), var };
    let verb_prefix = format!("TWINKEEP_{}_", env_name(verb_name));
    let table = file.get(verb_name).and_then(toml::Value::as_table);
    let own = Scope { command: verb, typed: typed_verb, prefix: verb_prefix, table, var };
    let before_verb = globals.added(&|arg| arg.is_global_set())?;
    let after_verb = own.added(&|arg| !arg.is_global_set())?;

    let at = verb_position(command, &argv);
    let mut whole = argv;
    whole.splice(at + 1..at + 1, after_verb);
    whole.splice(1..1, before_verb);
    Ok(command.clone().try_get_matches_from(whole)?)
}

/// Where the verb stands: the shortest beginning of the line in which clap sees one.
fn verb_position(command: &Command, argv: &[OsString]) -> usize {
    let sees_verb = |end: &usize| {
        let seen = command.clone().ignore_errors(true).try_get_matches_from(&argv[..*end]);
        seen.is_ok_and(|matches| matches.subcommand_name().is_some())
    };
    (2..=argv.len()).find(sees_verb).unwrap_or(argv.len()) - 1
}

fn read_file(named: Option<&PathBuf>, var: Var<'_>) -> anyhow::Result<toml::Table> {
    let from_env = var("TWINKEEP_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let (path, must_exist) = match named.cloned().or(from_env) {
        Some(path) => (path, true),
        None => match dirs::config_dir(var) {
            Ok(dir) => (dir.join("config.toml"), false),
            // Without a home there is no config file, and many verbs need neither.
            Err(_) => return Ok(toml::Table::new()),
        },
    };
    let text = match read_bounded(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(toml::Table::new()),
        other => other.map_err(|error| usage(format!("cannot read the config file {}: {error}", path.display())))?,
    };
    let why = |error: toml::de::Error| usage(format!("the config file {} is not valid: {error}", path.display()));
    text.parse().map_err(why)
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let len = std::fs::File::open(path)?.take(CONFIG_LEN_MAX + 1).read_to_string(&mut text)?;
    if len as u64 > CONFIG_LEN_MAX {
        return Err(std::io::Error::other(format!("it is longer than {CONFIG_LEN_MAX} bytes")));
    }
    Ok(text)
}

/// Every key of the file must be a flag, also in the tables of verbs that are not run now.
fn check_keys(command: &Command, file: &toml::Table) -> anyhow::Result<()> {
    let unknown = |key: &str, place: String, allowed: &Command, globals: bool| {
        let flags = allowed.get_arguments().filter(|arg| is_flag(arg) && arg.is_global_set() == globals);
        let list: Vec<&str> = flags.filter_map(Arg::get_long).collect();
        let hint = format!("keys known there: {}", list.join(", "));
        hinted(Code::Usage, format!("unknown key `{key}` {place} of the config file"), hint)
    };
    for (key, value) in file {
        if let (Some(verb), Some(table)) = (command.find_subcommand(key), value.as_table()) {
            for key in table.keys() {
                if !verb.get_arguments().any(|arg| is_flag(arg) && arg.get_long() == Some(key) && !arg.is_global_set())
                {
                    return Err(unknown(key, format!("in the table [{}]", verb.get_name()), verb, false));
                }
            }
        } else if !command.get_arguments().any(|arg| is_flag(arg) && arg.get_long() == Some(key)) {
            return Err(unknown(key, "at the top level".to_owned(), command, true));
        }
    }
    Ok(())
}

/// Whether an argument may be set outside the command line.
fn is_flag(arg: &Arg) -> bool {
    let is_action = matches!(arg.get_action(), ArgAction::Help | ArgAction::Version);
    arg.get_long().is_some_and(|long| long != "config" && long != "help" && long != "version") && !is_action
}

fn env_name(long: &str) -> String {
    long.to_uppercase().replace('-', "_")
}

/// The flags of one level and where their values may come from.
struct Scope<'a> {
    command: &'a Command,
    typed: &'a ArgMatches,
    prefix: String,
    table: Option<&'a toml::Table>,
    var: Var<'a>,
}

impl Scope<'_> {
    /// Arguments to put in for the flags that `wanted` selects.
    fn added(&self, wanted: &dyn Fn(&Arg) -> bool) -> anyhow::Result<Vec<OsString>> {
        let mut added = Vec::new();
        for arg in self.command.get_arguments().filter(|arg| is_flag(arg) && wanted(arg)) {
            let rivals = self.rivals(arg);
            if self.is_typed(arg) || rivals.iter().any(|rival| self.is_typed(rival)) {
                continue;
            }
            let long = arg.get_long().unwrap_or_default();
            if let Some(value) = self.in_env(arg) {
                // Of two variables that exclude each other, clap tells the user.
                added.extend(from_env(arg, &format!("{}{}", self.prefix, env_name(long)), &value)?);
            } else if let Some(value) = self.table.and_then(|table| table.get(long)) {
                let is_beaten = rivals.iter().any(|rival| self.in_env(rival).is_some());
                if !is_beaten && !self.password_is_in_env(arg) {
                    added.extend(from_file(arg, value)?);
                }
            }
        }
        Ok(added)
    }

    fn is_typed(&self, arg: &Arg) -> bool {
        let id = arg.get_id().as_str();
        self.typed.try_contains_id(id).unwrap_or(false) && self.typed.value_source(id) == Some(ValueSource::CommandLine)
    }

    fn in_env(&self, arg: &Arg) -> Option<OsString> {
        let name = format!("{}{}", self.prefix, env_name(arg.get_long()?));
        // An empty variable is how scripts say "not set".
        let value = (self.var)(&name).filter(|value| !value.is_empty())?;
        (!self.password_is_in_env(arg)).then_some(value)
    }

    /// `TWINKEEP_PASSWORD` is no flag, for its value would show in the list of processes, yet it has the rank of one.
    fn password_is_in_env(&self, arg: &Arg) -> bool {
        matches!(arg.get_long(), Some("password-file" | "password-command"))
            && (self.var)("TWINKEEP_PASSWORD").is_some_and(|value| !value.is_empty())
    }

    /// Flags of this level that cannot stand beside `arg`, whichever of the two says so.
    fn rivals(&self, arg: &Arg) -> Vec<&Arg> {
        let excludes =
            |a: &Arg, b: &Arg| self.command.get_arg_conflicts_with(a).iter().any(|other| other.get_id() == b.get_id());
        let others = self.command.get_arguments().filter(|other| other.get_id() != arg.get_id());
        others.filter(|other| excludes(arg, other) || excludes(other, arg)).collect()
    }
}

fn from_env(arg: &Arg, name: &str, value: &OsStr) -> anyhow::Result<Vec<OsString>> {
    let wrong = |wanted| usage(format!("the variable {name} is {value:?}, and must be {wanted}"));
    match arg.get_action() {
        ArgAction::SetTrue => match value.to_ascii_lowercase().to_str() {
            Some("1" | "true" | "yes" | "on") => Ok(vec![flag(arg, None)]),
            Some("0" | "false" | "no" | "off") => Ok(Vec::new()),
            _ => Err(wrong("true or false")),
        },
        ArgAction::Count => {
            let times: u8 = value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| wrong("a small number"))?;
            Ok(vec![flag(arg, None); usize::from(times)])
        }
        ArgAction::Append => {
            use std::os::unix::ffi::OsStrExt;
            let lines = value.as_bytes().split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
            Ok(lines.map(|line| flag(arg, Some(OsStr::from_bytes(line)))).collect())
        }
        _ => Ok(vec![flag(arg, Some(value))]),
    }
}

fn from_file(arg: &Arg, value: &toml::Value) -> anyhow::Result<Vec<OsString>> {
    let long = arg.get_long().unwrap_or_default();
    let wrong = |wanted| usage(format!("the key `{long}` of the config file is {value}, and must be {wanted}"));
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, toml::Value::Boolean(true)) => Ok(vec![flag(arg, None)]),
        (ArgAction::SetTrue, toml::Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err(wrong("true or false")),
        (ArgAction::Count, toml::Value::Integer(times)) => {
            let times = u8::try_from(*times).map_err(|_| wrong("a small number"))?;
            Ok(vec![flag(arg, None); usize::from(times)])
        }
        (ArgAction::Count, _) => Err(wrong("a small number")),
        (ArgAction::Append, toml::Value::Array(list)) => {
            let texts = list.iter().map(|value| scalar(value).ok_or_else(|| wrong("a list of texts")));
            texts.map(|text| Ok(flag(arg, Some(OsStr::new(&text?))))).collect()
        }
        _ => {
            let text = scalar(value).ok_or_else(|| wrong("a text, a number, or true or false"))?;
            Ok(vec![flag(arg, Some(OsStr::new(&text)))])
        }
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Datetime(time) => Some(time.to_string()),
        toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

/// `--long` or `--long=value`.
fn flag(arg: &Arg, value: Option<&OsStr>) -> OsString {
    let mut text = OsString::from("--");
    text.push(arg.get_long().unwrap_or_default());
    if let Some(value) = value {
        text.push("=");
        text.push(value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::HashMap;

    struct World {
        file: tempfile::NamedTempFile,
        vars: HashMap<String, String>,
    }

    fn world(file: &str, vars: &[(&str, &str)]) -> World {
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), file).unwrap();
        let mut vars: HashMap<String, String> = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        vars.insert("TWINKEEP_CONFIG".into(), temp.path().to_str().unwrap().into());
        World { file: temp, vars }
    }

    impl World {
        fn parse(&self, line: &str) -> anyhow::Result<ArgMatches> {
            assert!(self.file.path().exists());
            let argv = std::iter::once("twinkeep").chain(line.split_whitespace()).map(OsString::from).collect();
            parse(&crate::args::Cli::command(), argv, &|name| self.vars.get(name).map(OsString::from))
        }
    }

    fn strings(matches: &ArgMatches, id: &str) -> Vec<String> {
        let verb = matches.subcommand().unwrap().1;
        verb.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn flag_beats_env_beats_file() {
        let file = "vault = \"/file\"\nquiet = true\n[backup]\nexclude = [\"a\", \"b\"]\nhost = \"f\"\n";
        let check = |line: &str, vars: &[(&str, &str)], id: &str, expected: &[&str]| {
            let matches = world(file, vars).parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(strings(&matches, id), expected, "{line} {vars:?} {id}");
        };
        check("backup x", &[], "vault", &["/file"]);
        check("backup x", &[("TWINKEEP_VAULT", "/env")], "vault", &["/env"]);
        check("backup x", &[("TWINKEEP_VAULT", "")], "vault", &["/file"]);
        check("backup x -r /flag", &[("TWINKEEP_VAULT", "/env")], "vault", &["/flag"]);
        check("-r /flag backup x", &[("TWINKEEP_VAULT", "/env")], "vault", &["/flag"]);
        check("--vault=/flag backup x", &[], "vault", &["/flag"]);
        check("backup x", &[], "exclude", &["a", "b"]);
        check("backup x", &[("TWINKEEP_BACKUP_EXCLUDE", "c\nd e")], "exclude", &["c", "d e"]);
        check("backup x -e z", &[("TWINKEEP_BACKUP_EXCLUDE", "c")], "exclude", &["z"]);
        check("-v backup -e=z x", &[], "host", &["f"]);
        check("--vault backup backup x", &[], "vault", &["backup"]);
        check("snapshots", &[("TWINKEEP_BACKUP_HOST", "e")], "host", &[]);
        check("snapshots", &[("TWINKEEP_SNAPSHOTS_HOST", "e")], "host", &["e"]);
        let quiet = |vars: &[(&str, &str)]| world(file, vars).parse("backup x").unwrap().get_flag("quiet");
        assert!(quiet(&[]) && !quiet(&[("TWINKEEP_QUIET", "no")]) && quiet(&[("TWINKEEP_QUIET", "1")]));
    }

    #[test]
    fn password_sources_replace_each_other() {
        let file = "password-file = \"/f\"\n";
        let check = |line: &str, vars: &[(&str, &str)], file_is: &[&str], command_is: &[&str]| {
            let matches = world(file, vars).parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(strings(&matches, "password_file"), file_is, "{line} {vars:?}");
            assert_eq!(strings(&matches, "password_command"), command_is, "{line} {vars:?}");
        };
        check("snapshots", &[], &["/f"], &[]);
        check("snapshots", &[("TWINKEEP_PASSWORD_COMMAND", "c")], &[], &["c"]);
        check("snapshots --password-command d", &[("TWINKEEP_PASSWORD_FILE", "/e")], &[], &["d"]);
        check("snapshots", &[("TWINKEEP_PASSWORD", "secret")], &[], &[]);
        check("snapshots --password-file /g", &[("TWINKEEP_PASSWORD", "secret")], &["/g"], &[]);
        check("snapshots", &[("TWINKEEP_PASSWORD", "secret"), ("TWINKEEP_PASSWORD_FILE", "/e")], &[], &[]);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |file: &str, vars: &[(&str, &str)], named: &str| {
            let error = world(file, vars).parse("backup x").unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        };
        check("vualt = 1", &[], "`vualt` at the top level");
        check("[backup]\nexcludes = []", &[], "`excludes` in the table [backup]");
        check("[restore]\nvault = \"x\"", &[], "`vault` in the table [restore]");
        check("[backups]\nexclude = []", &[], "`backups`");
        check("exclude = []", &[], "`exclude` at the top level");
        check("json = 3", &[], "`json`");
        check("json = tru", &[], "not valid");
        check("config = \"x\"", &[], "`config`");
        check("", &[("TWINKEEP_JSON", "maybe")], "TWINKEEP_JSON");
    }
}
