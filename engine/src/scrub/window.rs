//! Reading a file from front to back through one large buffer, leaving nothing of it in the system's memory.

use crate::files::{ReadAt, Result};
use crate::pack::is_media;

/// A stretch of a file.
#[derive(Default)]
pub(super) struct Window {
    at: u64,
    bytes: Vec<u8>,
    len: usize,
    /// Bytes read and not yet taken account of.
    read: u64,
    /// Up to here nothing is read beside what is asked for: something in this stretch cannot be read.
    narrow_to: u64,
}

impl Window {
    /// Reads `len` bytes at a time.
    pub fn new(len: usize) -> Self {
        Self { len, ..Self::default() }
    }

    /// The bytes at `offset`, `len` of them, fewer where the file ends; what is not in the buffer is read with what
    /// follows it.
    pub fn get(&mut self, file: &dyn ReadAt, offset: u64, len: usize) -> Result<&[u8]> {
        let wanted = if offset < self.narrow_to { len } else { self.len.max(len) };
        match self.fill(file, offset, wanted, len) {
            // One bad sector is no reason to call its neighbours unreadable, nor to try it again for each of them.
            Err(error) if is_media(&error) && wanted > len => {
                self.narrow_to = offset.saturating_add(wanted as u64);
                self.fill(file, offset, len, len)?;
            }
            filled => filled?,
        }
        Ok(self.held(offset, len))
    }

    /// The same, read now and nothing beside it.
    pub fn get_anew(&mut self, file: &dyn ReadAt, offset: u64, len: usize) -> Result<&[u8]> {
        self.bytes.clear();
        file.forget(offset, len as u64);
        self.fill(file, offset, len, len)?;
        Ok(self.held(offset, len))
    }

    /// Forgets what it holds: another file comes next.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
        self.narrow_to = 0;
    }

    /// Lets the system forget what it holds, too.
    pub fn leave(&mut self, file: &dyn ReadAt) {
        file.forget(self.at, self.bytes.len() as u64);
        self.clear();
    }

    /// Bytes read since this was asked last.
    pub fn take_read(&mut self) -> u64 {
        std::mem::take(&mut self.read)
    }

    /// Has `len` bytes at `offset` in the buffer, as far as the file goes, reading on to `wanted` where it has to read.
    fn fill(&mut self, file: &dyn ReadAt, offset: u64, wanted: usize, len: usize) -> Result<()> {
        let end = self.at + self.bytes.len() as u64;
        if offset < self.at || offset.saturating_add(len as u64) > end {
            let kept = match (self.at..end).contains(&offset) {
                true => {
                    file.forget(self.at, offset - self.at);
                    self.bytes.drain(..(offset - self.at) as usize);
                    self.bytes.len()
                }
                false => {
                    file.forget(self.at, self.bytes.len() as u64);
                    self.bytes.clear();
                    0
                }
            };
            self.at = offset;
            self.bytes.resize(wanted.max(kept), 0);
            let read = file.read_at(offset.saturating_add(kept as u64), &mut self.bytes[kept..]);
            if read.is_err() {
                self.bytes.clear();
            }
            let read = read?;
            self.bytes.truncate(kept + read);
            self.read += read as u64;
        }
        Ok(())
    }

    fn held(&self, offset: u64, len: usize) -> &[u8] {
        let start = ((offset - self.at) as usize).min(self.bytes.len());
        let end = (start + len).min(self.bytes.len());
        &self.bytes[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Dice;
    use crate::files::Files;
    use crate::files::memory::MemoryFiles;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A file with one byte that cannot be read; counts what is tried.
    struct Scratched(std::sync::Arc<dyn ReadAt>, u64, AtomicU32);

    impl ReadAt for Scratched {
        fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
            match (offset..offset + bytes.len() as u64).contains(&self.1) {
                true => {
                    self.2.fetch_add(1, Ordering::Relaxed);
                    let source = std::io::Error::from_raw_os_error(libc::EIO);
                    Err(crate::files::FilesError { action: "read", path: "f".to_owned(), source })
                }
                false => self.0.read_at(offset, bytes),
            }
        }
        fn len(&self) -> Result<u64> {
            self.0.len()
        }
    }

    #[test]
    fn a_bad_sector_hides_nothing_beside_it_and_is_tried_seldom() {
        let bytes: Vec<u8> = (0..100_000).map(|at| at as u8).collect();
        let files = MemoryFiles::new();
        files.put("f", bytes.clone());
        let file = Scratched(files.open("f").unwrap(), 44_444, AtomicU32::new(0));
        let mut window = Window::new(20_000);
        for at in (0..100_000).step_by(1000) {
            let got = window.get(&file, at as u64, 1000);
            assert_eq!(got.ok(), (at != 44_000).then(|| &bytes[at..at + 1000]), "{at}");
        }
        // Once with all around it, once by itself, once more from within the next stretch at most.
        assert!(file.2.load(Ordering::Relaxed) <= 3, "{:?}", file.2);
        assert!(window.get_anew(&file, 44_000, 1000).is_err());
        assert!(window.take_read() >= 99_000);
    }

    #[test]
    fn it_gives_the_bytes_of_the_file_and_reads_each_once() {
        let mut dice = Dice(7);
        let mut bytes = vec![0; 10_000];
        dice.fill(&mut bytes);
        let files = MemoryFiles::new();
        files.put("f", bytes.clone());
        let file = files.open("f").unwrap();
        for len in [1, 10, 100, 5000, 20_000] {
            let mut window = Window::new(len);
            let mut at = 0;
            while at < bytes.len() {
                let want = 1 + dice.below(300);
                let end = (at + want).min(bytes.len());
                assert_eq!(window.get(&*file, at as u64, want).unwrap(), &bytes[at..end]);
                at = end;
            }
            assert_eq!((window.take_read(), window.take_read()), (10_000, 0), "{len}");
            assert_eq!(window.get_anew(&*file, 9_990, 50).unwrap(), &bytes[9_990..]);
            assert_eq!(window.get(&*file, 20_000, 50).unwrap(), b"");
            assert_eq!(window.get(&*file, 5, 5).unwrap(), &bytes[5..10]);
            window.leave(&*file);
            assert_eq!(window.get(&*file, 0, 5).unwrap(), &bytes[..5]);
        }
    }
}
