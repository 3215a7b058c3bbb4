//! The twin of the index in memory: [`MemoryKvHome`]. A version is a set of shared trees; a write transaction copies
//! a tree when it first changes it, and a commit swaps the set. What is committed survives a crash, nothing else does.

use super::{Kv, KvError, KvHome, Read, Result, Table, Visit, Write, check_key};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The rows of one table.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// One version of all tables, cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Version {
    tables: [Arc<Rows>; Table::ALL.len()],
}

impl Version {
    /// The rows of a table.
    pub fn rows(&self, table: Table) -> &Rows {
        &self.tables[table as usize]
    }

    /// The rows of a table, to be changed.
    pub fn rows_mut(&mut self, table: Table) -> &mut Rows {
        Arc::make_mut(&mut self.tables[table as usize])
    }
}

/// Where the map of one vault lives; clones share it.
#[derive(Clone, Default)]
pub struct MemoryKvHome {
    state: Arc<Mutex<Home>>,
}

#[derive(Default)]
struct Home {
    current: Option<Arc<MemoryKv>>,
    damaged: bool,
    broken: Vec<Version>,
}

impl MemoryKvHome {
    /// A home without a map.
    pub fn new() -> Self {
        Self::default()
    }

    /// A home whose map holds `version`, or none.
    pub fn from_version(version: Option<Version>) -> Self {
        let current = version.map(|version| Arc::new(MemoryKv { last: Mutex::new(version), ..MemoryKv::default() }));
        Self { state: Arc::new(Mutex::new(Home { current, ..Home::default() })) }
    }

    /// The last commit, or none if there is no map.
    pub fn version(&self) -> Option<Version> {
        self.state().current.as_ref().map(|kv| kv.last().clone())
    }

    /// What a crash leaves: the last commit.
    pub fn crash(&self) -> Self {
        Self::from_version(self.version())
    }

    /// From now on `open` finds the map damaged, until it is replaced.
    pub fn set_damaged(&self) {
        self.state().damaged = true;
    }

    /// Takes the map away, as if its folder had been removed.
    pub fn remove(&self) {
        self.state().current = None;
    }

    /// How many maps were set aside by `replace`.
    pub fn broken(&self) -> usize {
        self.state().broken.len()
    }

    fn state(&self) -> MutexGuard<'_, Home> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvHome for MemoryKvHome {
    fn open(&self) -> Result<Option<Arc<dyn Kv>>> {
        let state = self.state();
        if state.damaged {
            return Err(KvError::Damaged("marked as damaged".to_owned()));
        }
        Ok(state.current.clone().map(|kv| kv as Arc<dyn Kv>))
    }

    fn replace(&self, fill: &mut dyn FnMut(&dyn Kv) -> Result<()>) -> Result<Arc<dyn Kv>> {
        let in_use = |state: &Home| state.current.as_ref().is_some_and(|kv| Arc::strong_count(kv) > 1);
        let refuse = || KvError::Io("the index to be replaced is still in use".to_owned());
        if in_use(&self.state()) {
            return Err(refuse());
        }
        let kv = Arc::new(MemoryKv::default());
        fill(&*kv)?;
        let mut state = self.state();
        if in_use(&state) {
            return Err(refuse());
        }
        if let Some(old) = state.current.replace(kv.clone()) {
            let version = old.last().clone();
            state.broken.push(version);
        }
        state.damaged = false;
        Ok(kv)
    }
}

/// A map in memory.
#[derive(Default)]
pub struct MemoryKv {
    last: Mutex<Version>,
    writer: Mutex<()>,
}

impl MemoryKv {
    fn last(&self) -> MutexGuard<'_, Version> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kv for MemoryKv {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(MemoryRead { version: self.last().clone() }))
    }

    fn write(&self) -> Result<Box<dyn Write + '_>> {
        let turn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.last().clone();
        Ok(Box::new(MemoryWrite { kv: self, version, _turn: turn }))
    }
}

struct MemoryRead {
    version: Version,
}

struct MemoryWrite<'a> {
    kv: &'a MemoryKv,
    version: Version,
    _turn: MutexGuard<'a, ()>,
}

impl Read for Version {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        Ok(self.rows(table).get(key).map(Vec::as_slice))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        for (key, value) in self.rows(table).range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn count(&self, table: Table) -> Result<u64> {
        Ok(self.rows(table).len() as u64)
    }

    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        Ok(self.rows(table).last_key_value().map(|(key, value)| (key.as_slice(), value.as_slice())))
    }
}

/// Reads of a transaction are reads of something it holds.
macro_rules! read_through {
    ($type:ty, $field:ident) => {
        impl $crate::kv::Read for $type {
            fn get(&self, table: $crate::kv::Table, key: &[u8]) -> $crate::kv::Result<Option<&[u8]>> {
                self.$field.get(table, key)
            }
            fn scan(
                &self,
                table: $crate::kv::Table,
                from: &[u8],
                visit: &mut $crate::kv::Visit<'_>,
            ) -> $crate::kv::Result<()> {
                self.$field.scan(table, from, visit)
            }
            fn count(&self, table: $crate::kv::Table) -> $crate::kv::Result<u64> {
                self.$field.count(table)
            }
            fn last(&self, table: $crate::kv::Table) -> $crate::kv::Result<Option<(&[u8], &[u8])>> {
                self.$field.last(table)
            }
        }
    };
}
pub(crate) use read_through;

read_through!(MemoryRead, version);
read_through!(MemoryWrite<'_>, version);

impl Write for MemoryWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        self.version.rows_mut(table).insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        if !self.version.rows(table).contains_key(key) {
            return Ok(false);
        }
        Ok(self.version.rows_mut(table).remove(key).is_some())
    }

    fn commit(self: Box<Self>) -> Result<()> {
        *self.kv.last() = self.version;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_commits_and_damage_shows_at_open() {
        let home = MemoryKvHome::new();
        assert!(home.open().unwrap().is_none());
        let kv = home.replace(&mut |_| Ok(())).unwrap();
        let mut write = kv.write().unwrap();
        write.put(Table::Meta, b"a", b"1").unwrap();
        write.commit().unwrap();
        let mut write = kv.write().unwrap();
        write.put(Table::Meta, b"b", b"2").unwrap();
        let after = home.crash();
        drop(write);
        let kv_after = after.open().unwrap().unwrap();
        assert_eq!(kv_after.read().unwrap().count(Table::Meta).unwrap(), 1);

        home.set_damaged();
        assert!(matches!(home.open(), Err(KvError::Damaged(_))));
        assert!(matches!(home.replace(&mut |_| Ok(())), Err(KvError::Io(_))), "still open");
        drop(kv);
        home.replace(&mut |_| Ok(())).unwrap();
        assert_eq!((home.broken(), home.open().unwrap().is_some()), (1, true));
    }
}
