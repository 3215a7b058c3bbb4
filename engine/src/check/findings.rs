//! What was found so far, within bounds: a vault that is all damage must not fill the memory.

use super::{CheckReport, DamagedFile};
use crate::store::Fault;
use std::time::Duration;

/// Faults, and damaged files, that a report lists; the rest is counted.
const LISTED_MAX: usize = 10_000;

/// Notes that a report lists.
const NOTES_MAX: usize = 1000;

/// The index, as faults call it.
const INDEX: &str = "index";

/// A report in the making.
#[derive(Default)]
pub(crate) struct Findings {
    pub report: CheckReport,
}

/// See [`Findings::extent`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent(usize, u64, usize, u64);

impl Findings {
    /// Something is damaged.
    pub fn fault(&mut self, file: impl Into<String>, problem: impl Into<String>) {
        match self.report.faults.len() < LISTED_MAX {
            true => self.report.faults.push(Fault { file: file.into(), problem: problem.into() }),
            false => self.report.faults_more += 1,
        }
    }

    /// The index contradicts itself or the packs.
    pub fn index_fault(&mut self, problem: impl Into<String>) {
        self.fault(INDEX, problem);
    }

    /// Something is unusual and right.
    pub fn note(&mut self, note: String) {
        if self.report.notes.len() < NOTES_MAX {
            self.report.notes.push(note);
        }
    }

    /// Something in a snapshot is damaged.
    pub fn damaged(&mut self, file: DamagedFile) {
        match self.is_list_full() {
            false => self.report.damaged.push(file),
            true => self.report.damaged_more += 1,
        }
    }

    /// Whether damaged files are only counted by now.
    pub fn is_list_full(&self) -> bool {
        self.report.damaged.len() >= LISTED_MAX
    }

    /// How much damage was found so far: faults and damaged files, listed and counted.
    pub fn extent(&self) -> Extent {
        let report = &self.report;
        Extent(report.faults.len(), report.faults_more, report.damaged.len(), report.damaged_more)
    }

    /// Forgets the damage that was found since.
    pub fn forget_since(&mut self, extent: Extent) {
        let Extent(faults, faults_more, damaged, damaged_more) = extent;
        self.report.faults.truncate(faults);
        self.report.faults_more = faults_more;
        self.report.damaged.truncate(damaged);
        self.report.damaged_more = damaged_more;
    }

    /// Takes over what a worker found.
    pub fn merge(&mut self, other: Self) {
        let CheckReport { packs, frames, chunks, bytes_read, faults, faults_more, notes, .. } = other.report;
        self.report.packs += packs;
        self.report.frames += frames;
        self.report.chunks += chunks;
        self.report.bytes_read += bytes_read;
        self.report.faults_more += faults_more;
        faults.into_iter().for_each(|fault| self.fault(fault.file, fault.problem));
        notes.into_iter().for_each(|note| self.note(note));
    }

    /// The report: faults of one file together, in the order they were found.
    pub fn finish(mut self, duration: Duration) -> CheckReport {
        self.report.faults.sort_by(|a, b| a.file.cmp(&b.file));
        self.report.notes.sort();
        self.report.duration = duration;
        self.report
    }
}
