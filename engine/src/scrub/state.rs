//! What a scrub remembers between its runs: the round it is at, the last complete one, which packs a round owes.
//!
//! Each is a file of its own in the vault's folder `scrub`, replaced as a whole and checksummed. One that cannot be
//! read is as good as none: a round then begins anew.
//!
//! ```text
//! magic "TKSCRB\0" and 1 (8) · vault id (16) · what: 1 a round, 2 a list of packs (1) · 7 zeros · number of the round
//! (u64) · payload · BLAKE3 of everything before it (32)
//! ```

use super::plan::{PackPlace, Step};
use crate::env::Time;
use crate::files::{Files, FilesError};
use crate::id::{FrameId, Kind, SessionId, VaultId};
use crate::index::{FrameNumber, FramePlace, PackNumber};
use crate::limits::{SCRUB_FAULTS_MAX, SCRUB_LIST_LEN_MAX, SCRUB_ROUND_LEN_MAX};
use crate::pack::{PackName, is_media};
use crate::store::BadFrame;
use std::io::ErrorKind;

/// The folder of a vault in which scrubs remember.
pub const DIR: &str = "scrub";

pub(super) const PRESENT: &str = "scrub/present";
pub(super) const LAST: &str = "scrub/last";
pub(super) const PACKS: &str = "scrub/packs";
pub(super) const PAUSE: &str = "scrub/pause";

const MAGIC: [u8; 8] = *b"TKSCRB\0\x01";
const HEADER_LEN: usize = 40;
const HASH_LEN: usize = 32;

/// Longest text of a fault, bytes.
const TEXT_LEN_MAX: usize = 500;

/// What was done about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Done {
    /// Nothing: it is told.
    Told = 0,
    /// What it hits is about to lose its standing.
    Pending = 1,
    /// What it hits lost its standing: the next backup stores anew what it still meets.
    SetAside = 2,
    /// It had lost its standing when the round came to it.
    Earlier = 3,
}

/// Something bad.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubFault {
    /// The file in the vault, or `index`.
    pub file: String,
    /// Where a frame begins in it.
    pub offset: Option<u64>,
    /// What is wrong.
    pub problem: String,
    /// What was done about it.
    pub done: Done,
    pub(super) frame: Option<FrameMark>,
}

/// A frame that was found bad, so that it is known again in another run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameMark {
    pub number: FrameNumber,
    pub pack: PackNumber,
    pub id: FrameId,
}

impl ScrubFault {
    /// The frame, unless a rebuilt index means another one by its number.
    pub(super) fn bad_frame(&self, now: impl FnOnce(FrameNumber) -> Option<FramePlace>) -> Option<BadFrame> {
        let (mark, offset) = (self.frame?, self.offset?);
        let found = BadFrame { number: mark.number, pack: mark.pack, offset };
        now(mark.number).filter(|place| place.id == mark.id).map(|_| found)
    }
}

/// What a round verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Packs read to their ends.
    pub packs: u64,
    /// Frames that are what was stored.
    pub frames: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Rows of chunks in the index.
    pub chunks: u64,
    /// Frames passed over because they were found bad earlier.
    pub set_aside: u64,
    /// Chunks that were lost with such frames and that nothing has stored anew since.
    pub lost_chunks: u64,
    /// What looked wrong and was right when read again from the disk.
    pub passing: u64,
}

impl Counts {
    const LEN: usize = 8;

    fn fields(&self) -> [u64; Self::LEN] {
        let Self { packs, frames, bytes, records, chunks, set_aside, lost_chunks, passing } = *self;
        [packs, frames, bytes, records, chunks, set_aside, lost_chunks, passing]
    }

    fn of([packs, frames, bytes, records, chunks, set_aside, lost_chunks, passing]: [u64; Self::LEN]) -> Self {
        Self { packs, frames, bytes, records, chunks, set_aside, lost_chunks, passing }
    }
}

/// One round through a vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Round {
    /// The how-manieth, from 1.
    pub number: u64,
    /// When it began.
    pub begun: Time,
    /// When it was written down last.
    pub saved: Time,
    /// When it was complete.
    pub ended: Option<Time>,
    /// What it is at.
    pub step: Step,
    /// Where in the packs, once it is there.
    pub place: Option<PackPlace>,
    /// What it verified.
    pub counts: Counts,
    /// Bytes of the packs that are done, and of all there are, as far as known.
    pub bytes_done: u64,
    /// See `bytes_done`.
    pub bytes_total: u64,
    /// What is bad, at most 10 000 of it.
    pub faults: Vec<ScrubFault>,
    /// Faults beyond those.
    pub faults_more: u64,
}

impl Round {
    /// A round that begins.
    pub(super) fn new(number: u64, now: Time) -> Self {
        Self {
            number,
            begun: now,
            saved: now,
            ended: None,
            step: Step::Twins,
            place: None,
            counts: Counts::default(),
            bytes_done: 0,
            bytes_total: 0,
            faults: Vec::new(),
            faults_more: 0,
        }
    }

    /// Whether all that was looked at is as it was stored, and of what was lost earlier everything was stored anew.
    pub fn is_clean(&self) -> bool {
        let is_old = |fault: &ScrubFault| fault.done == Done::Earlier;
        self.faults.iter().all(is_old) && self.faults_more == 0 && self.counts.lost_chunks == 0
    }

    /// A frame is passed over because it was found bad before the round came to it: perhaps by this very round, which
    /// looks into branches when it takes the standing of what is below them.
    pub(super) fn add_known(&mut self, file: &str, place: &FramePlace) {
        self.counts.set_aside += 1;
        let is_told = |fault: &ScrubFault| fault.offset == Some(place.offset) && fault.file == file;
        // Room is left for what is new.
        if self.faults.len() < SCRUB_FAULTS_MAX / 2 && !self.faults.iter().any(is_told) {
            let problem = crate::check::judge::frame_problem(place, "was found damaged earlier");
            let (file, offset) = (file.to_owned(), Some(place.offset));
            self.faults.push(ScrubFault { file, offset, problem, done: Done::Earlier, frame: None });
        }
    }

    /// Bytes of packs that are done, those of the pack it stands in among them.
    pub fn bytes_so_far(&self) -> u64 {
        let in_pack = self.place.map(|place| place.offset).filter(|&offset| offset != PackPlace::END);
        self.bytes_done.saturating_add(in_pack.unwrap_or(0))
    }

    /// How far it is, 0 to 100.
    pub fn percent(&self) -> f64 {
        match (self.step, self.bytes_total) {
            (Step::Done, _) => 100.0,
            (Step::Twins | Step::Records | Step::Index, _) => 0.0,
            (_, 0) => 100.0,
            (_, total) => self.bytes_so_far().min(total) as f64 * 100.0 / total as f64,
        }
    }

    /// Adds a fault, once; tells whether it is listed now, and not only counted.
    pub(super) fn add(&mut self, mut fault: ScrubFault) -> bool {
        shorten(&mut fault.file);
        shorten(&mut fault.problem);
        let is_same = |known: &ScrubFault| {
            (&known.file, known.offset, &known.problem) == (&fault.file, fault.offset, &fault.problem)
        };
        match self.faults.iter().any(is_same) {
            true => true,
            false if self.faults.len() < SCRUB_FAULTS_MAX => {
                self.faults.push(fault);
                true
            }
            false => {
                self.faults_more += 1;
                false
            }
        }
    }

    fn payload(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for time in [self.begun, self.saved, self.ended.unwrap_or_default()] {
            out.extend_from_slice(&time.0.to_le_bytes());
        }
        out.extend_from_slice(&[self.ended.is_some() as u8, self.step as u8, self.place.is_some() as u8, 0]);
        out.extend_from_slice(&self.place.map_or([0; NAME_LEN], |place| name_bytes(&place.name)));
        out.extend_from_slice(&self.place.map_or(0, |place| place.offset).to_le_bytes());
        let numbers = [self.bytes_done, self.bytes_total, self.faults_more];
        for number in self.counts.fields().into_iter().chain(numbers) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.faults.len() as u32).to_le_bytes());
        for fault in &self.faults {
            out.extend_from_slice(&[fault.done as u8, fault.offset.is_some() as u8, fault.frame.is_some() as u8, 0]);
            out.extend_from_slice(&fault.offset.unwrap_or(0).to_le_bytes());
            let mark =
                fault.frame.unwrap_or(FrameMark { number: FrameNumber(0), pack: PackNumber(0), id: FrameId([0; 32]) });
            out.extend_from_slice(&mark.number.0.to_le_bytes());
            out.extend_from_slice(&mark.pack.0.to_le_bytes());
            out.extend_from_slice(&mark.id.0);
            for text in [&fault.file, &fault.problem] {
                out.extend_from_slice(&(text.len() as u16).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
        out
    }

    fn read(number: u64, payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let [begun, saved, ended] = [fields.u64()?, fields.u64()?, fields.u64()?].map(|time| Time(time as i64));
        let [is_ended, step, has_place, _] = fields.take()?;
        let name = read_name(&fields.take()?);
        let offset = fields.u64()?;
        let mut counts = [0; Counts::LEN];
        for count in &mut counts {
            *count = fields.u64()?;
        }
        let [bytes_done, bytes_total, faults_more] = [fields.u64()?, fields.u64()?, fields.u64()?];
        let fault_count = u32::from_le_bytes(fields.take()?) as usize;
        if fault_count > SCRUB_FAULTS_MAX {
            return None;
        }
        let mut faults = Vec::new();
        for _ in 0..fault_count {
            faults.push(read_fault(&mut fields)?);
        }
        Some(Self {
            number,
            begun,
            saved,
            ended: (is_ended == 1).then_some(ended),
            step: Step::from_byte(step)?,
            place: if has_place == 1 { Some(PackPlace { name: name?, offset }) } else { None },
            counts: Counts::of(counts),
            bytes_done,
            bytes_total,
            faults,
            faults_more,
        })
        .filter(|_| fields.0.is_empty())
    }

    /// Writes the round down.
    pub(super) fn save(&self, files: &dyn Files, vault: VaultId, path: &str) -> Result<(), FilesError> {
        files.write_atomic(path, &encode(vault, ROUND, self.number, &self.payload()))
    }

    /// Reads a round.
    pub(super) fn load(files: &dyn Files, vault: VaultId, path: &str) -> Result<Found<Self>, FilesError> {
        let read = load(files, vault, path, ROUND, SCRUB_ROUND_LEN_MAX)?;
        Ok(read.and(path, |(number, payload)| Self::read(number, &payload)))
    }
}

/// The packs a round owes, ascending.
pub(super) fn save_list(files: &dyn Files, vault: VaultId, number: u64, names: &[PackName]) -> Result<(), FilesError> {
    let payload: Vec<u8> = names.iter().flat_map(name_bytes).collect();
    files.write_atomic(PACKS, &encode(vault, LIST, number, &payload))
}

/// Reads the packs that the round of this number owes.
pub(super) fn load_list(files: &dyn Files, vault: VaultId, number: u64) -> Result<Found<Vec<PackName>>, FilesError> {
    let read = load(files, vault, PACKS, LIST, SCRUB_LIST_LEN_MAX)?;
    Ok(read.and(PACKS, |(found, payload)| {
        let names: Option<Vec<_>> = payload.chunks(NAME_LEN).map(|bytes| read_name(bytes.try_into().ok()?)).collect();
        names.filter(|names| found == number && names.is_sorted())
    }))
}

/// What a file of a scrub holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// There is none.
    Nothing,
    /// Nothing that can be used, with what is to be said.
    Unreadable(String),
    /// This.
    Value(T),
}

impl<T> Found<T> {
    fn and<U>(self, path: &str, read: impl FnOnce(T) -> Option<U>) -> Found<U> {
        match self {
            Self::Nothing => Found::Nothing,
            Self::Unreadable(why) => Found::Unreadable(why),
            Self::Value(value) => match read(value) {
                Some(value) => Found::Value(value),
                None => unreadable(path),
            },
        }
    }
}

fn unreadable<T>(path: &str) -> Found<T> {
    Found::Unreadable(format!("{path} is not readable"))
}

const ROUND: u8 = 1;
const LIST: u8 = 2;

fn encode(vault: VaultId, what: u8, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len() + HASH_LEN);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&vault.0);
    bytes.extend_from_slice(&[what, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(payload);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// Number of the round and payload of a whole file.
fn decode(vault: VaultId, what: u8, bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_LEN)?)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let mut fields = Fields(body);
    let is_ours = fields.take()? == MAGIC && fields.take()? == vault.0 && fields.take()? == [what, 0, 0, 0, 0, 0, 0, 0];
    let number = fields.u64()?;
    is_ours.then(|| (number, fields.0.to_vec()))
}

/// # Errors
/// What says nothing about the file.
fn load(
    files: &dyn Files,
    vault: VaultId,
    path: &str,
    what: u8,
    len_max: usize,
) -> Result<Found<(u64, Vec<u8>)>, FilesError> {
    match files.read_all(path, len_max) {
        Ok(bytes) => Ok(Found::Value(bytes).and(path, |bytes| decode(vault, what, &bytes))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) if error.kind() == ErrorKind::FileTooLarge || is_media(&error) => Ok(unreadable(path)),
        Err(error) => Err(error),
    }
}

fn read_fault(fields: &mut Fields<'_>) -> Option<ScrubFault> {
    let [done, has_offset, has_frame, _] = fields.take()?;
    let done = match done {
        0 => Done::Told,
        1 => Done::Pending,
        2 => Done::SetAside,
        3 => Done::Earlier,
        _ => return None,
    };
    let offset = fields.u64()?;
    let number = FrameNumber(fields.u64()?);
    let pack = PackNumber(u32::from_le_bytes(fields.take()?));
    let mark = FrameMark { number, pack, id: FrameId(fields.take()?) };
    let (file, problem) = (fields.text()?, fields.text()?);
    let (offset, frame) = ((has_offset == 1).then_some(offset), (has_frame == 1).then_some(mark));
    Some(ScrubFault { file, offset, problem, done, frame })
}

const NAME_LEN: usize = 21;

fn name_bytes(name: &PackName) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    bytes[..16].copy_from_slice(&name.session.0);
    bytes[16] = name.kind as u8;
    bytes[17..].copy_from_slice(&name.number.to_le_bytes());
    bytes
}

fn read_name(bytes: &[u8; NAME_LEN]) -> Option<PackName> {
    let mut fields = Fields(bytes);
    let session = SessionId(fields.take()?);
    let [kind] = fields.take()?;
    Some(PackName { session, kind: Kind::from_byte(kind)?, number: u32::from_le_bytes(fields.take()?) })
}

/// Cuts a text where a letter ends.
fn shorten(text: &mut String) {
    if text.len() > TEXT_LEN_MAX {
        let end = (0..=TEXT_LEN_MAX).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
}

/// Takes fields off the front of bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::from(u16::from_le_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::memory::MemoryFiles;

    const VAULT: VaultId = VaultId([3; 16]);

    fn name(number: u32) -> PackName {
        PackName { session: SessionId([9; 16]), kind: Kind::Branch, number }
    }

    fn round() -> Round {
        let mut round = Round::new(7, Time(5));
        round.step = Step::Packs;
        round.place = Some(PackPlace { name: name(3), offset: 1234 });
        round.counts = Counts::of([1, 2, 3, 4, 5, 6, 7, 8]);
        (round.bytes_done, round.bytes_total, round.faults_more) = (50, 200, 9);
        let frame = Some(FrameMark { number: FrameNumber(4), pack: PackNumber(5), id: FrameId([6; 32]) });
        let fault = ScrubFault {
            file: "packs/x".into(),
            offset: Some(64),
            problem: "is damaged ä".into(),
            done: Done::Pending,
            frame,
        };
        assert!(round.add(fault.clone()) && round.add(fault.clone()));
        round.add(ScrubFault { file: "config".into(), offset: None, frame: None, done: Done::Told, ..fault });
        round
    }

    #[test]
    fn a_round_is_read_as_it_was_written() {
        let files = MemoryFiles::new();
        files.create_dir(DIR).unwrap();
        assert_eq!(Round::load(&files, VAULT, PRESENT).unwrap(), Found::Nothing);
        let ended = Round { ended: Some(Time(-8)), step: Step::Done, place: None, ..round() };
        for round in [round(), ended, Round::new(1, Time(0))] {
            round.save(&files, VAULT, PRESENT).unwrap();
            assert_eq!(Round::load(&files, VAULT, PRESENT).unwrap(), Found::Value(round));
        }
        assert_eq!((round().faults.len(), round().bytes_so_far(), round().is_clean()), (2, 1284, false));
        assert!(matches!(Round::load(&files, VaultId([4; 16]), PRESENT).unwrap(), Found::Unreadable(_)));
        let names: Vec<PackName> = (0..50).map(name).collect();
        save_list(&files, VAULT, 7, &names).unwrap();
        assert_eq!(load_list(&files, VAULT, 7).unwrap(), Found::Value(names));
        assert!(matches!(load_list(&files, VAULT, 8).unwrap(), Found::Unreadable(_)));
        assert!(matches!(Round::load(&files, VAULT, PACKS).unwrap(), Found::Unreadable(_)));
    }

    #[test]
    fn no_other_bytes_are_read() {
        let files = MemoryFiles::new();
        files.create_dir(DIR).unwrap();
        round().save(&files, VAULT, PRESENT).unwrap();
        let bytes = files.bytes(PRESENT).unwrap();
        for at in 0..bytes.len() {
            files.damage(PRESENT, |bytes| bytes[at] ^= 1);
            assert!(matches!(Round::load(&files, VAULT, PRESENT).unwrap(), Found::Unreadable(_)), "{at}");
            files.damage(PRESENT, |bytes| bytes[at] ^= 1);
            files.put(PRESENT, bytes[..at].to_vec());
            assert!(matches!(Round::load(&files, VAULT, PRESENT).unwrap(), Found::Unreadable(_)), "cut at {at}");
            files.put(PRESENT, bytes.clone());
        }
        // Whatever stands under a right checksum is read or refused, and never more than is there.
        let payload = round().payload();
        let mut dice = crate::env::Dice(11);
        for _ in 0..20_000 {
            let mut payload = payload[..dice.below(payload.len() + 1)].to_vec();
            for _ in 0..dice.below(4) {
                let at = dice.below(payload.len());
                payload.get_mut(at).into_iter().for_each(|byte| *byte = dice.throw() as u8);
            }
            let _ = Round::read(1, &payload);
        }
    }

    #[test]
    fn faults_without_end_are_counted_and_long_texts_cut() {
        let mut round = Round::new(1, Time(0));
        for offset in 0..SCRUB_FAULTS_MAX as u64 + 5 {
            let fault = |problem: &str| ScrubFault {
                file: "f".into(),
                offset: Some(offset),
                problem: problem.into(),
                done: Done::Told,
                frame: None,
            };
            assert_eq!(round.add(fault(&"ä".repeat(600))), offset < SCRUB_FAULTS_MAX as u64);
        }
        assert_eq!((round.faults.len(), round.faults_more, round.faults[0].problem.len()), (SCRUB_FAULTS_MAX, 5, 500));
        let files = MemoryFiles::new();
        files.create_dir(DIR).unwrap();
        round.save(&files, VAULT, LAST).unwrap();
        assert_eq!(Round::load(&files, VAULT, LAST).unwrap(), Found::Value(round));
    }
}
