//! Packs of a round: header, frames with the names behind them, directory.

use super::plan::PackPlace;
use super::run::{Going, Run};
use super::state::Done;
use crate::check::index::{IndexView, PackView, end_of};
use crate::check::judge::{self, Directory, Header, Judged};
use crate::files::ReadAt;
use crate::index::{FrameNumber, FramePlace, FrameState, PackState};
use crate::pack::{FRAME_NAME_LEN, FrameRow, HEADER_LEN, is_media};
use crate::store::{self, BadFrame, Store};
use std::io::ErrorKind;

/// What is wrong where a frame should be.
enum Wrong {
    /// The frame itself.
    Frame(String),
    /// Only the name behind it.
    Name,
}

impl Run<'_> {
    /// Reads the rest of a pack.
    pub(super) fn pack(&mut self, view: &IndexView, pack: &PackView) -> Going<()> {
        self.go_on()?;
        let (name, path) = (pack.row.name, pack.row.name.path());
        let from = self.round.place.filter(|place| place.name == name).map_or(0, |place| place.offset);
        let opened = match self.files().open(&path) {
            Err(error) if is_media(&error) => self.files().open(&path),
            opened => opened,
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if pack.row.state != PackState::Lost {
                    self.audit()?;
                }
                return Ok(self.pass(name, pack.row.indexed_len)?);
            }
            Err(error) if is_media(&error) => {
                self.unopened(view, pack, &path, &error.source.to_string())?;
                return Ok(self.pass(name, pack.row.indexed_len)?);
            }
            Err(error) => return Err(error.into()),
        };
        self.set_current(&path);
        let len = file.len()?;
        let is_cut = len < pack.row.indexed_len;
        if is_cut && pack.row.state != PackState::Lost {
            self.audit()?;
        }
        if from < HEADER_LEN {
            // What is cut is lost, and that was told.
            if !is_cut {
                self.header(&*file, view, pack, &path)?;
            }
            self.round.place = Some(PackPlace { name, offset: HEADER_LEN });
        }
        self.window.clear();
        let (at, rows) = self.frames(&*file, view, pack, &path, from)?;
        if !is_cut {
            self.tail(&*file, pack, &path, at, &rows)?;
        }
        self.window.leave(&*file);
        Ok(self.pack_done(name, pack.row.indexed_len)?)
    }

    /// A pack that the medium does not even let us open: all its frames are bad.
    fn unopened(&mut self, view: &IndexView, pack: &PackView, path: &str, why: &str) -> Going<()> {
        for (number, _) in view.frames_of(pack) {
            if let Some(place) = self.place(pack, number)?.filter(|place| place.state == FrameState::Good) {
                let problem = judge::frame_problem(&place, &format!("cannot be read: {why}"));
                self.bad(path, BadFrame::at(number, &place), &place, problem);
            }
        }
        Ok(())
    }

    /// Where a frame is, if it still is in this pack.
    fn place(&self, pack: &PackView, number: FrameNumber) -> store::Result<Option<FramePlace>> {
        Ok(self.store.frame_if_any(number)?.filter(|place| place.pack == pack.number))
    }

    fn header(&mut self, file: &dyn ReadAt, view: &IndexView, pack: &PackView, path: &str) -> Going<()> {
        let is_empty = view.frames_of(pack).next().is_none();
        let judge = || judge::header(file, self.store.vault(), &pack.row.name, is_empty);
        let mut header = judge()?;
        if let Header::Bad(_) = header {
            file.forget(0, HEADER_LEN);
            header = judge()?;
        }
        if let Header::Bad(problem) = header {
            self.add(path, None, problem, Done::Told);
        }
        Ok(())
    }

    /// Verifies the frames from `from` on; returns where the last one ends, and the rows of all that are here.
    fn frames(
        &mut self,
        file: &dyn ReadAt,
        view: &IndexView,
        pack: &PackView,
        path: &str,
        from: u64,
    ) -> Going<(u64, Vec<FrameRow>)> {
        let len = file.len()?;
        let mut rows = Vec::new();
        let mut at = HEADER_LEN;
        for (number, _) in view.frames_of(pack) {
            let Some(place) = self.place(pack, number)? else { continue };
            rows.push(FrameRow { offset: place.offset, len: place.len, id: place.id });
            if !judge::can_lie(&place, at, pack.row.indexed_len) {
                let problem = format!("frame {} of {path} is said to lie where it cannot", number.0);
                self.add("index", None, problem, Done::Told);
                continue;
            }
            at = end_of(place.offset, place.len);
            if place.offset < from {
                continue;
            }
            match place.state {
                FrameState::Good => self.frame(file, path, number, &place)?,
                // Of a pack that is cut all was told.
                FrameState::Bad if at > len => self.round.counts.set_aside += 1,
                FrameState::Bad => self.round.add_known(path, &place),
            }
            self.round.place = Some(PackPlace { name: pack.row.name, offset: at });
            self.save_if_due()?;
        }
        Ok((at, rows))
    }

    fn frame(&mut self, file: &dyn ReadAt, path: &str, number: FrameNumber, place: &FramePlace) -> Going<()> {
        self.go_on()?;
        let mut wrong = self.look(file, place, false)?;
        if wrong.is_some() && !crate::zoo::planted("scrub-without-second-read") {
            wrong = self.look(file, place, true)?;
            self.round.counts.passing += u64::from(wrong.is_none());
        }
        match wrong {
            None => self.round.counts.frames += 1,
            Some(Wrong::Name) => {
                self.round.counts.frames += 1;
                self.add(path, Some(place.offset), judge::name_problem(place), Done::Told);
            }
            Some(Wrong::Frame(what)) => {
                // What moved or went while it was read is nobody's loss.
                if self.store.frame_if_any(number)?.is_some_and(|now| now == *place) {
                    self.bad(path, BadFrame::at(number, place), place, judge::frame_problem(place, &what));
                }
            }
        }
        Ok(())
    }

    /// What is wrong with the bytes of a frame.
    ///
    /// # Errors
    /// What says nothing about them.
    fn look(&mut self, file: &dyn ReadAt, place: &FramePlace, anew: bool) -> Going<Option<Wrong>> {
        let len = place.len as usize + FRAME_NAME_LEN as usize;
        let read = match anew {
            true => self.window.get_anew(file, place.offset, len),
            false => self.window.get(file, place.offset, len),
        };
        let wrong = match read.map(|bytes| judge::frame(place, bytes)) {
            Ok(Judged::Whole { is_named: true }) => None,
            Ok(Judged::Whole { is_named: false }) => Some(Wrong::Name),
            Ok(Judged::Wrong) => Some(Wrong::Frame("is damaged".to_owned())),
            Err(error) if is_media(&error) => Some(Wrong::Frame(format!("cannot be read: {}", error.source))),
            Err(_) if crate::zoo::planted("scrub-says-clean-on-error") => None,
            Err(error) => return Err(error.into()),
        };
        let read = self.window.take_read();
        self.spend(read);
        Ok(wrong)
    }

    fn tail(&mut self, file: &dyn ReadAt, pack: &PackView, path: &str, at: u64, rows: &[FrameRow]) -> Going<()> {
        let len = file.len()?;
        // An open pack may be growing; of a lost one the end is known to be missing.
        if pack.row.state != PackState::Closed || len <= at {
            return Ok(());
        }
        let judge = || judge::tail(file, &pack.row.name, len, at, rows);
        let mut directory = judge()?;
        if let Directory::Bad(_) = directory {
            file.forget(at, len - at);
            directory = judge()?;
        }
        self.spend(len - at);
        if let Directory::Bad(problem) = directory {
            self.add(path, None, problem, Done::Told);
        }
        Ok(())
    }
}
