//! What every [`KvHome`](super::KvHome) must do, as one suite run against each of them.

#[cfg(test)]
pub(crate) mod tests {
    use crate::env::Dice;
    use crate::kv::{Kv, KvError, KvHome, Read, Table};
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;
    use std::sync::Arc;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    /// Runs the suite; `make` gives a fresh home without a map each time.
    pub(crate) fn suite(make: &dyn Fn() -> Arc<dyn KvHome>) {
        replace_and_reopen(&*make());
        isolation(&*make());
        bounds(&*make());
        failed_fill_changes_nothing(&*make());
        for seed in 1..4 {
            like_a_map(&*make(), seed);
        }
    }

    fn empty(home: &dyn KvHome) -> Arc<dyn Kv> {
        home.replace(&mut |_| Ok(())).unwrap()
    }

    fn rows(read: &dyn Read, table: Table, from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        read.scan(table, from, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        rows
    }

    fn put(kv: &dyn Kv, table: Table, key: &[u8], value: &[u8]) {
        let mut write = kv.write().unwrap();
        write.put(table, key, value).unwrap();
        write.commit().unwrap();
    }

    fn replace_and_reopen(home: &dyn KvHome) {
        assert!(home.open().unwrap().is_none());
        let kv = home
            .replace(&mut |kv| {
                put(kv, Table::Frames, b"one", b"1");
                put(kv, Table::Frames, b"two", b"2");
                Ok(())
            })
            .unwrap();
        assert_eq!(kv.read().unwrap().get(Table::Frames, b"two").unwrap(), Some(&b"2"[..]));
        let again = home.open().unwrap().unwrap();
        put(&*again, Table::Meta, b"seen", b"by both");
        assert_eq!(kv.read().unwrap().get(Table::Meta, b"seen").unwrap(), Some(&b"by both"[..]));
        assert!(matches!(home.replace(&mut |_| Ok(())), Err(KvError::Io(_))), "it is open");
        drop((kv, again));
        let kv = home.open().unwrap().unwrap();
        assert_eq!(kv.read().unwrap().count(Table::Frames).unwrap(), 2);
        drop(kv);
        let kv = empty(home);
        assert_eq!(kv.read().unwrap().count(Table::Frames).unwrap(), 0);
    }

    fn isolation(home: &dyn KvHome) {
        let kv = empty(home);
        put(&*kv, Table::Chunks, b"k", b"old");
        let before = kv.read().unwrap();
        let mut write = kv.write().unwrap();
        write.put(Table::Chunks, b"k", b"new").unwrap();
        assert_eq!(write.get(Table::Chunks, b"k").unwrap(), Some(&b"new"[..]), "a writer sees its own changes");
        assert_eq!(kv.read().unwrap().get(Table::Chunks, b"k").unwrap(), Some(&b"old"[..]));
        write.commit().unwrap();
        assert_eq!(before.get(Table::Chunks, b"k").unwrap(), Some(&b"old"[..]), "a view stays as it was");
        drop(before);
        let mut write = kv.write().unwrap();
        assert!(write.delete(Table::Chunks, b"k").unwrap());
        assert!(!write.delete(Table::Chunks, b"k").unwrap());
        drop(write);
        assert_eq!(kv.read().unwrap().get(Table::Chunks, b"k").unwrap(), Some(&b"new"[..]), "dropped, no trace");
        assert_eq!(kv.read().unwrap().get(Table::Packs, b"k").unwrap(), None, "tables are apart");

        // Readers in other threads, one writer at a time.
        std::thread::scope(|scope| {
            for worker in 0..4_u8 {
                let kv = &kv;
                scope.spawn(move || {
                    for n in 0..20_u8 {
                        put(&**kv, Table::Packs, &[worker, n], &[n]);
                        assert!(kv.read().unwrap().count(Table::Packs).unwrap() > 0);
                    }
                });
            }
        });
        assert_eq!(kv.read().unwrap().count(Table::Packs).unwrap(), 80);
    }

    fn bounds(home: &dyn KvHome) {
        let kv = empty(home);
        let read = kv.read().unwrap();
        assert_eq!(read.last(Table::Meta).unwrap(), None);
        assert!(rows(&*read, Table::Meta, b"").is_empty());
        drop(read);
        let mut write = kv.write().unwrap();
        assert!(write.put(Table::Meta, b"", b"x").is_err());
        assert!(write.put(Table::Meta, &[1; 65], b"x").is_err());
        write.put(Table::Meta, &[1; 64], &vec![7; 100_000]).unwrap();
        write.put(Table::Meta, b"empty", b"").unwrap();
        write.commit().unwrap();
        let read = kv.read().unwrap();
        assert_eq!(read.get(Table::Meta, b"").unwrap(), None);
        assert_eq!(read.get(Table::Meta, &[1; 600]).unwrap(), None);
        assert_eq!(read.get(Table::Meta, b"empty").unwrap(), Some(&b""[..]));
        assert_eq!(read.get(Table::Meta, &[1; 64]).unwrap().map(<[u8]>::len), Some(100_000));
        assert_eq!(rows(&*read, Table::Meta, b"e").len(), 1);
        assert_eq!(rows(&*read, Table::Meta, &[1; 600]).len(), 1);
        assert_eq!(rows(&*read, Table::Meta, &[255; 600]).len(), 0);
        let mut seen = 0;
        let mut visit = |_: &[u8], _: &[u8]| {
            seen += 1;
            ControlFlow::Break(())
        };
        read.scan(Table::Meta, b"", &mut visit).unwrap();
        assert_eq!(seen, 1);
    }

    fn failed_fill_changes_nothing(home: &dyn KvHome) {
        let mut refuse = |kv: &dyn Kv| {
            put(kv, Table::Meta, b"new", b"");
            Err(KvError::NoSpace)
        };
        assert!(matches!(home.replace(&mut refuse), Err(KvError::NoSpace)));
        assert!(home.open().unwrap().is_none());
        let kv = empty(home);
        put(&*kv, Table::Meta, b"old", b"");
        drop(kv);
        assert!(matches!(home.replace(&mut refuse), Err(KvError::NoSpace)));
        let kv = home.open().unwrap().unwrap();
        assert_eq!(rows(&*kv.read().unwrap(), Table::Meta, b""), [(b"old".to_vec(), vec![])]);
    }

    /// Random transactions against a model.
    fn like_a_map(home: &dyn KvHome, seed: u64) {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let kv = empty(home);
        let mut model: [Model; Table::ALL.len()] = Default::default();
        for _ in 0..40 {
            let mut write = kv.write().unwrap();
            let mut changed = model.clone();
            for _ in 0..dice.below(200) {
                let table = Table::ALL[dice.below(Table::ALL.len())];
                let mut key = vec![0; 1 + dice.below(3)];
                dice.fill(&mut key);
                // Runs of ascending keys at the end of the table, too.
                if dice.one_in(2) {
                    key = [vec![255], (changed[table as usize].len() as u32).to_be_bytes().to_vec()].concat();
                }
                if dice.one_in(4) {
                    let was_there = changed[table as usize].remove(&key).is_some();
                    assert_eq!(write.delete(table, &key).unwrap(), was_there);
                } else {
                    let value = vec![dice.throw() as u8; dice.below(300)];
                    write.put(table, &key, &value).unwrap();
                    changed[table as usize].insert(key, value);
                }
            }
            if dice.one_in(4) {
                drop(write);
            } else {
                write.commit().unwrap();
                model = changed;
            }
            let read = kv.read().unwrap();
            for table in Table::ALL {
                let model = &model[table as usize];
                let from = [dice.throw() as u8];
                let expected: Vec<_> = model.range(from.to_vec()..).map(|(k, v)| (k.clone(), v.clone())).collect();
                assert_eq!(rows(&*read, table, &from), expected);
                assert_eq!(read.count(table).unwrap(), model.len() as u64);
                let last = model.last_key_value().map(|(k, v)| (k.as_slice(), v.as_slice()));
                assert_eq!(read.last(table).unwrap(), last);
            }
        }
    }

    #[test]
    fn lmdb_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::cell::Cell::new(0);
        suite(&|| {
            made.set(made.get() + 1);
            let vault = folder.path().join(made.get().to_string());
            std::fs::create_dir(&vault).unwrap();
            Arc::new(crate::kv::lmdb::LmdbHome::new(vault))
        });
    }

    #[test]
    fn twins_conform() {
        use crate::files::faulty::{Faults, FaultyKvHome};
        use crate::files::memory::MemoryFiles;
        use crate::kv::memory::MemoryKvHome;
        suite(&|| Arc::new(MemoryKvHome::new()));
        suite(&|| Arc::new(crate::files::record::record(MemoryFiles::new(), MemoryKvHome::new()).1));
        suite(&|| Arc::new(FaultyKvHome::new(Arc::new(MemoryKvHome::new()), Faults::new())));
    }
}
