//! Changing a vault's config, and mending its copies.
//!
//! What always holds: whoever writes the config holds its lock and has read it since, so of two changes at once none is
//! lost. A reader takes no lock: it sees the config before a change or behind it.

use super::config::{COMPRESSION_LEVEL_MAX, COMPRESSION_LEVEL_MIN, CONFIG_PATH, Config, ConfigFile};
use super::twin;
use super::{Place, Result, Vault, VaultError};
use crate::crypto::VaultKeys;
use crate::env::Time;
use crate::record::change::UNDELETE_DAYS_MAX;

/// Settings to be changed; nothing for those that stay.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigChange {
    /// For so many days what is forgotten from now on can be brought back.
    pub undelete_days: Option<u32>,
    /// zstd level of new frames, 1 to 19.
    pub compression_level: Option<i32>,
}

impl ConfigChange {
    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(VaultError::Setting(what));
        match (self.undelete_days, self.compression_level) {
            (Some(days), _) if days > UNDELETE_DAYS_MAX => {
                wrong(format!("an undelete window of {days} days; at most {UNDELETE_DAYS_MAX} are meant"))
            }
            (_, Some(level)) if !(COMPRESSION_LEVEL_MIN..=COMPRESSION_LEVEL_MAX).contains(&level) => wrong(format!(
                "compression level {level}; there are {COMPRESSION_LEVEL_MIN} to {COMPRESSION_LEVEL_MAX}"
            )),
            _ => Ok(()),
        }
    }
}

impl Vault {
    /// Changes settings, durably. Others who have the vault open go on with what they read.
    ///
    /// # Errors
    /// A value is out of its bounds; the config cannot be read or written: then it is as before or, after a power cut,
    /// as asked for.
    pub fn configure(&mut self, change: &ConfigChange) -> Result<()> {
        change.check()?;
        let _lock = self.local()?.lock("config")?;
        let files = self.local()?.files();
        let loaded = twin::load(&**files, CONFIG_PATH, ConfigFile::parse).map_err(VaultError::Config)?;
        let mut config = loaded.value.verify(self.keys())?;
        if config.vault != self.id() {
            return Err(VaultError::Unlock("the config belongs to another vault"));
        }
        config.undelete_days = change.undelete_days.unwrap_or(config.undelete_days);
        config.compression_level = change.compression_level.unwrap_or(config.compression_level);
        let count = loaded.count.saturating_add(1);
        twin::store(&**files, CONFIG_PATH, &config.encode(count, self.env().clock.now(), self.keys()))?;
        self.config = config;
        Ok(())
    }
}

/// Writes both copies of the config again, of which one was bad. A vault that may only be read stays as it is, and one
/// whose config is being changed is left to who does so.
pub(super) fn mend(place: &Place, owner: &str, keys: &VaultKeys, now: Time) -> Option<()> {
    place.files.create_dir("locks").ok()?;
    let _lock = place.files.try_lock("locks/config", owner).ok()??;
    let loaded = twin::load(&*place.files, CONFIG_PATH, ConfigFile::parse).ok()?;
    if loaded.damaged.is_empty() {
        return None;
    }
    let config: Config = loaded.value.verify(keys).ok()?;
    twin::store(&*place.files, CONFIG_PATH, &config.encode(loaded.count.saturating_add(1), now, keys)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::files::memory::MemoryFiles;
    use crate::kv::memory::MemoryKvHome;
    use crate::vault::{CreateOptions, Unlock};
    use std::sync::Arc;

    fn place(files: &MemoryFiles) -> Place {
        Place { files: Arc::new(files.clone()), kv_home: Arc::new(MemoryKvHome::new()) }
    }

    fn change(undelete_days: Option<u32>, compression_level: Option<i32>) -> ConfigChange {
        ConfigChange { undelete_days, compression_level }
    }

    #[test]
    fn two_who_change_the_config_both_get_what_they_asked_for() {
        let files = MemoryFiles::new();
        let place = place(&files);
        let options = CreateOptions { encrypted: false, ..CreateOptions::default() };
        let (mut first, _) = Vault::create(place.clone(), Env::system(1), &options, &[]).unwrap();
        let open = || Vault::open(place.clone(), Env::system(1), Unlock::Nothing, "test").unwrap();
        let mut second = open();
        first.configure(&change(Some(30), None)).unwrap();
        second.configure(&change(None, Some(9))).unwrap();
        let config = open().config().clone();
        assert_eq!((config.undelete_days, config.compression_level), (30, 9));
        assert_eq!(second.config(), &config);
        for bad in [change(Some(3654), None), change(None, Some(0)), change(None, Some(20))] {
            assert!(matches!(first.configure(&bad), Err(VaultError::Setting(_))));
        }
        assert_eq!(open().config(), &config);

        // A copy that is behind, while somebody holds the lock: told, and left to them.
        use crate::files::Files;
        let copy = files.read_all("config", 1 << 20).unwrap();
        first.configure(&change(Some(8), None)).unwrap();
        files.write_atomic("config", &copy).unwrap();
        let lock = files.try_lock("locks/config", "other").unwrap().unwrap();
        assert_eq!((open().config().undelete_days, open().notes().len()), (8, 1));
        drop(lock);
        assert_eq!(open().notes().len(), 1);
        assert_eq!((open().config().undelete_days, open().notes().len()), (8, 0));
    }
}
