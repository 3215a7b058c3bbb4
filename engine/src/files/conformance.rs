//! What every [`Files`](super::Files) must do, as one suite run against each of them.

#[cfg(test)]
pub(crate) mod tests {
    use crate::files::faulty::{Faults, FaultyFiles};
    use crate::files::memory::MemoryFiles;
    use crate::files::os::OsFiles;
    use crate::files::record::record;
    use crate::files::{Files, Listed};
    use crate::kv::memory::MemoryKvHome;
    use std::io::ErrorKind;
    use std::sync::Arc;

    /// Runs the suite; `make` gives a fresh empty tree each time.
    pub(crate) fn suite(make: &dyn Fn() -> Arc<dyn Files>) {
        files_are_made_once_and_read_back(&*make());
        folders(&*make());
        renames_and_removals(&*make());
        whole_files(&*make());
        locks(&*make());
        paths(&*make());
        threads(&*make());
    }

    fn kind<T>(result: crate::files::Result<T>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    fn files_are_made_once_and_read_back(files: &dyn Files) {
        let file = files.create("a").unwrap();
        assert_eq!(kind(files.create("a")), Some(ErrorKind::AlreadyExists));
        assert_eq!(kind(files.open("b")), Some(ErrorKind::NotFound));
        assert_eq!(kind(files.create("no/such")), Some(ErrorKind::NotFound));
        assert!(files.open("a").unwrap().is_empty().unwrap());
        file.append(b"hello ").unwrap();
        let reader = files.open("a").unwrap();
        file.append(b"").unwrap();
        file.append(b"world").unwrap();
        file.hint_flush();
        file.sync().unwrap();
        assert_eq!(reader.len().unwrap(), 11);
        // (offset, buffer length, expected)
        for (offset, len, expected) in
            [(0, 5, &b"hello"[..]), (6, 100, b"world"), (10, 1, b"d"), (11, 4, b""), (1 << 40, 4, b""), (3, 0, b"")]
        {
            let mut bytes = vec![0xaa; len];
            let read = reader.read_at(offset, &mut bytes).unwrap();
            assert_eq!(&bytes[..read], expected, "{len} at {offset}");
        }
        // An open file outlives its name.
        files.remove("a").unwrap();
        file.append(b"!").unwrap();
        assert_eq!(reader.len().unwrap(), 12);
        assert_eq!(kind(files.open("a")), Some(ErrorKind::NotFound));
    }

    fn folders(files: &dyn Files) {
        assert_eq!(kind(files.list("x")), Some(ErrorKind::NotFound));
        assert_eq!(kind(files.sync_dir("x")), Some(ErrorKind::NotFound));
        files.create_dir("x/y").unwrap();
        files.create_dir("x/y").unwrap();
        files.create_dir("").unwrap();
        files.create("x/2").unwrap().append(b"22").unwrap();
        files.create("x/10").unwrap();
        files.create("x/y/deep").unwrap();
        files.create("x0").unwrap();
        let listed = |name: &str, len, is_dir| Listed { name: name.to_owned(), len, is_dir };
        assert_eq!(files.list("x").unwrap(), [listed("10", 0, false), listed("2", 2, false), listed("y", 0, true)]);
        assert_eq!(files.list("").unwrap(), [listed("x", 0, true), listed("x0", 0, false)]);
        for dir in ["", "x", "x/y"] {
            files.sync_dir(dir).unwrap();
        }
        assert!(files.open("x").is_err() && files.remove("x").is_err() && files.create("x").is_err());
        assert!(files.create_dir("x0").is_err() && files.create_dir("x0/y").is_err());
    }

    fn renames_and_removals(files: &dyn Files) {
        files.create_dir("d").unwrap();
        files.create("a").unwrap().append(b"a").unwrap();
        files.create("d/b").unwrap().append(b"b").unwrap();
        assert_eq!(kind(files.rename("nothing", "x")), Some(ErrorKind::NotFound));
        assert_eq!(kind(files.rename("a", "no/such")), Some(ErrorKind::NotFound));
        assert!(files.rename("a", "d").is_err());
        assert_eq!(files.read_all("a", 9).unwrap(), b"a");
        let old = files.open("d/b").unwrap();
        files.rename("a", "d/b").unwrap();
        assert_eq!(files.read_all("d/b", 9).unwrap(), b"a");
        assert_eq!(kind(files.open("a")), Some(ErrorKind::NotFound));
        let mut byte = [0];
        assert_eq!((old.read_at(0, &mut byte).unwrap(), byte), (1, *b"b"), "replaced, still open");
        files.rename("d/b", "d/b").unwrap();
        files.remove("d/b").unwrap();
        assert_eq!(kind(files.remove("d/b")), Some(ErrorKind::NotFound));
        files.create("d/b").unwrap();
    }

    fn whole_files(files: &dyn Files) {
        files.create_dir("d").unwrap();
        files.write_atomic("d/f", b"one").unwrap();
        files.create("d/f.tmp").unwrap().append(b"left over").unwrap();
        files.write_atomic("d/f", b"second").unwrap();
        assert_eq!(files.read_all("d/f", 6).unwrap(), b"second");
        assert_eq!(kind(files.read_all("d/f", 5)), Some(ErrorKind::FileTooLarge));
        assert_eq!(files.list("d").unwrap().len(), 1);
    }

    fn locks(files: &dyn Files) {
        files.create_dir("l").unwrap();
        let held = files.try_lock("l/a", "pid 1, a long owner").unwrap().unwrap();
        assert!(files.try_lock("l/a", "pid 2").unwrap().is_none());
        assert_eq!(files.read_all("l/a", 100).unwrap(), b"pid 1, a long owner");
        let other = files.try_lock("l/b", "").unwrap().unwrap();
        drop(held);
        assert_eq!(files.list("l").unwrap().len(), 2, "a lock's file stays");
        let again = files.try_lock("l/a", "pid 2").unwrap().unwrap();
        assert_eq!(files.read_all("l/a", 100).unwrap(), b"pid 2");
        drop((other, again));
        assert_eq!(kind(files.try_lock("no/such", "")), Some(ErrorKind::NotFound));
    }

    fn paths(files: &dyn Files) {
        for path in ["/a", "a/", "../a", "a/../b", ".", "a//b", "a/./b", "a\\b", "a\0b"] {
            assert_eq!(kind(files.create(path)), Some(ErrorKind::InvalidInput), "{path:?}");
            assert_eq!(kind(files.create_dir(path)), Some(ErrorKind::InvalidInput), "{path:?}");
            assert_eq!(kind(files.rename(path, "b")), Some(ErrorKind::InvalidInput), "{path:?}");
            assert_eq!(kind(files.rename("b", path)), Some(ErrorKind::InvalidInput), "{path:?}");
            assert!(files.open(path).is_err() && files.list(path).is_err() && files.remove(path).is_err());
            assert!(files.try_lock(path, "").is_err() && files.sync_dir(path).is_err());
        }
        assert!(files.create("").is_err());
    }

    fn threads(files: &dyn Files) {
        let shared = files.create("shared").unwrap();
        std::thread::scope(|scope| {
            for worker in 0..4_u8 {
                let shared = &shared;
                scope.spawn(move || {
                    let own = files.create(&worker.to_string()).unwrap();
                    for _ in 0..50 {
                        own.append(&[worker; 10]).unwrap();
                        shared.append(&[worker; 10]).unwrap();
                        shared.hint_flush();
                    }
                    own.sync().unwrap();
                });
            }
        });
        let bytes = files.read_all("shared", 2000).unwrap();
        assert_eq!(bytes.len(), 2000);
        assert!(bytes.chunks(10).all(|part| part == [part[0]; 10]), "appends stay whole");
    }

    #[test]
    fn os_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::cell::Cell::new(0);
        suite(&|| {
            made.set(made.get() + 1);
            let files = OsFiles::new(folder.path().join(made.get().to_string()));
            files.create_dir("").unwrap();
            Arc::new(files)
        });
    }

    #[test]
    fn twins_conform() {
        suite(&|| Arc::new(MemoryFiles::new()));
        suite(&|| Arc::new(record(MemoryFiles::new(), MemoryKvHome::new()).0));
        suite(&|| Arc::new(FaultyFiles::new(Arc::new(MemoryFiles::new()), Faults::new())));
    }
}
