//! Where things are on this machine: the folders of the XDG base directory rules.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Code, hinted};

/// Reads an environment variable; tests hand in their own.
pub type Var<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's own environment.
pub fn process_var(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The vault that is used when none is named.
pub fn default_vault(var: Var<'_>) -> anyhow::Result<PathBuf> {
    Ok(base(var, "XDG_DATA_HOME", ".local/share")?.join("twinkeep/vault"))
}

/// Config file and machine keys.
pub fn config_dir(var: Var<'_>) -> anyhow::Result<PathBuf> {
    Ok(base(var, "XDG_CONFIG_HOME", ".config")?.join("twinkeep"))
}

/// Disposable knowledge of what was backed up.
pub fn cache_dir(var: Var<'_>) -> anyhow::Result<PathBuf> {
    Ok(base(var, "XDG_CACHE_HOME", ".cache")?.join("twinkeep"))
}

/// A relative path in these variables counts as not set, as the rules say.
fn base(var: Var<'_>, name: &str, under_home: &str) -> anyhow::Result<PathBuf> {
    if let Some(dir) = var(name).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        return Ok(dir);
    }
    match var("HOME").map(PathBuf::from).filter(|home| home.is_absolute()) {
        Some(home) => Ok(home.join(under_home)),
        None => Err(hinted(
            Code::Failed,
            format!("neither {name} nor HOME is set to an absolute path"),
            "set HOME, or name the vault with --vault and the config file with --config",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdg_beats_home_and_relative_ones_do_not_count() {
        let check = |data: Option<&str>, home: Option<&str>, expected: Option<&str>| {
            let var = |name: &str| match name {
                "XDG_DATA_HOME" => data.map(OsString::from),
                "HOME" => home.map(OsString::from),
                _ => None,
            };
            assert_eq!(default_vault(&var).ok(), expected.map(PathBuf::from));
        };
        check(Some("/d"), Some("/h"), Some("/d/twinkeep/vault"));
        check(Some("d"), Some("/h"), Some("/h/.local/share/twinkeep/vault"));
        check(None, Some("/h"), Some("/h/.local/share/twinkeep/vault"));
        check(None, Some(""), None);
        check(None, None, None);
    }
}
