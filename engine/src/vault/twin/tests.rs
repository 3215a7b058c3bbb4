use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::num::ParseIntError;
use std::sync::{Arc, Mutex};

use super::*;
use crate::files::{Append, Listed, Lock, ReadAt, Result as FilesResult};

/// Files in memory, with paths that cannot be read.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

const UNREADABLE: &[u8] = b"EIO";

struct Open(Shelf, String);

fn failed<T>(action: &'static str, path: &str, kind: ErrorKind) -> FilesResult<T> {
    Err(FilesError { action, path: path.to_owned(), source: kind.into() })
}

impl Append for Open {
    fn append(&self, bytes: &[u8]) -> FilesResult<()> {
        self.0.0.lock().unwrap().get_mut(&self.1).unwrap().extend_from_slice(bytes);
        Ok(())
    }
    fn sync(&self) -> FilesResult<()> {
        Ok(())
    }
}

impl ReadAt for Open {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> FilesResult<usize> {
        let files = self.0.0.lock().unwrap();
        let rest = &files[&self.1][offset as usize..];
        let len = rest.len().min(bytes.len());
        bytes[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
    fn len(&self) -> FilesResult<u64> {
        Ok(self.0.0.lock().unwrap()[&self.1].len() as u64)
    }
}

impl Files for Shelf {
    fn create(&self, path: &str) -> FilesResult<Arc<dyn Append>> {
        self.0.lock().unwrap().insert(path.to_owned(), Vec::new());
        Ok(Arc::new(Open(self.clone(), path.to_owned())))
    }
    fn open(&self, path: &str) -> FilesResult<Arc<dyn ReadAt>> {
        match self.0.lock().unwrap().get(path).map(Vec::as_slice) {
            None => failed("read", path, ErrorKind::NotFound),
            Some(UNREADABLE) => failed("read", path, ErrorKind::PermissionDenied),
            Some(_) => Ok(Arc::new(Open(self.clone(), path.to_owned()))),
        }
    }
    fn list(&self, _: &str) -> FilesResult<Vec<Listed>> {
        unreachable!("a twin lists nothing")
    }
    fn rename(&self, from: &str, to: &str) -> FilesResult<()> {
        let mut files = self.0.lock().unwrap();
        let bytes = files.remove(from).unwrap();
        files.insert(to.to_owned(), bytes);
        Ok(())
    }
    fn remove(&self, path: &str) -> FilesResult<()> {
        match self.0.lock().unwrap().remove(path) {
            None => failed("remove", path, ErrorKind::NotFound),
            Some(_) => Ok(()),
        }
    }
    fn create_dir(&self, _: &str) -> FilesResult<()> {
        Ok(())
    }
    fn sync_dir(&self, _: &str) -> FilesResult<()> {
        Ok(())
    }
    fn sync_file(&self, _: &str) -> FilesResult<()> {
        Ok(())
    }
    fn try_lock(&self, _: &str, _: &str) -> FilesResult<Option<Box<dyn Lock>>> {
        Ok(None)
    }
}

/// `3 text` was written three times.
fn parse(bytes: &[u8]) -> Result<(u64, String), ParseIntError> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    Ok((text.split(' ').next().unwrap_or("").parse()?, text))
}

/// `None` is a missing file; the result is the value and the complaint.
fn check(main: Option<&str>, copy: Option<&str>, expected: Result<(&str, &str), &str>) {
    let shelf = Shelf::default();
    for (path, text) in [("config", main), ("config.copy", copy)] {
        text.map(|text| shelf.0.lock().unwrap().insert(path.to_owned(), text.as_bytes().to_vec()));
    }
    let got = load(&shelf, "config", parse);
    match (&got, expected) {
        (Ok(loaded), Ok((value, damaged))) => {
            assert_eq!((loaded.value.as_str(), loaded.damaged.concat().as_str()), (value, damaged));
            assert_eq!(loaded.count, parse(value.as_bytes()).unwrap().0);
        }
        (Err(error), Err(text)) => assert_eq!(error.to_string(), text),
        _ => panic!("{main:?} {copy:?}: {got:?}"),
    }
}

#[test]
fn the_newest_valid_file_counts() {
    check(Some("1 a"), Some("1 a"), Ok(("1 a", "")));
    check(Some("2 b"), Some("1 a"), Ok(("2 b", "config.copy is behind its twin: written 1 times, not 2")));
    check(Some("1 a"), Some("2 b"), Ok(("2 b", "config is behind its twin: written 1 times, not 2")));
    let differs = "config.copy differs from its twin though both were written 1 times";
    check(Some("1 a"), Some("1 b"), Ok(("1 a", differs)));
    check(Some("1 a"), None, Ok(("1 a", "config.copy is missing")));
    check(None, Some("1 a"), Ok(("1 a", "config is missing")));
    check(Some("x"), Some("1 a"), Ok(("1 a", "config is damaged: invalid digit found in string")));
    check(Some("9 z"), Some("x"), Ok(("9 z", "config.copy is damaged: invalid digit found in string")));
    check(Some("EIO"), Some("1 a"), Ok(("1 a", "cannot read config: permission denied")));
}

#[test]
fn says_why_there_is_no_value() {
    check(None, None, Err("neither config nor config.copy exists"));
    check(Some("x"), None, Err("cannot use config"));
    check(None, Some("x"), Err("cannot use config.copy"));
    check(Some("x"), Some("y"), Err("cannot use config"));
    check(Some("EIO"), Some("x"), Err("cannot read config"));
    let large = "1 ".repeat(RECORD_LEN_MAX);
    check(Some(&large), None, Err("cannot read config"));
}

#[test]
fn what_is_stored_is_loaded() {
    let shelf = Shelf::default();
    for text in ["1 a", "2 b"] {
        store(&shelf, "config", text.as_bytes()).unwrap();
        let loaded = load(&shelf, "config", parse).unwrap();
        assert_eq!((loaded.value.as_str(), loaded.damaged), (text, vec![]));
        assert_eq!(shelf.0.lock().unwrap().keys().collect::<Vec<_>>(), ["config", "config.copy"]);
    }
}
