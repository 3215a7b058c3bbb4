//! The rules of the protocol, each of which can be left out.

/// A rule that protects something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rule {
    /// gc waits for the sessions that lived when it condemned.
    Wait,
    /// After waiting it marks again, and what is reached is condemned no more.
    SecondMark,
    /// The roots of the second mark are read after the waiting.
    RootsAfterWait,
    /// Mark goes on until nothing new is reached, also where a child lives in a newer frame than its parent.
    MarkToTheEnd,
    /// A session takes its lock before it reads the epoch.
    LockBeforeEpoch,
    /// Sessions begun after the condemn are told no for what is condemned or leaning.
    NewerToldNo,
    /// A branch over something condemned or leaning is leaning itself.
    LeaningInherits,
    /// When gc condemns, branches admitted since it began are roots too.
    LateBranchesAreRoots,
    /// Only places below the frame number that gc remembered are condemned.
    OnlyOlderFrames,
    /// A chunk put anew whose place is condemned, or that is leaning, lives at its new place.
    PutReplacesCondemned,
    /// ... unless it would lean there: then the place that may be saved with its parents is as good.
    LeaningReplacesNothing,
    /// While gc sweeps, a condemned child counts as missing.
    SweptCountsAsMissing,
    /// What is still leaning after the second mark is condemned.
    LeftoverLeaningGoes,
    /// At the switch to sweeping, branches that came since the second mark began are roots, too.
    LateLeaningAreRoots,
    /// At the switch to sweeping only rows that are leaning then become admitted.
    SwitchLooksAgain,
    /// A row is deleted only if its place is condemned in that very transaction.
    SweepLooksAgain,
    /// gc goes on in the phase that stands in the index.
    ResumesByPhase,
    /// One gc at a time.
    OneGc,
    /// Mark stops at a branch that is missing or cannot be read.
    MarkStops,
    /// Only packs that are closed and wholly indexed are dropped.
    OnlyClosedPacks,
    /// The transaction that drops a pack sees that no row points into it.
    DropLooksAgain,
    /// The pack is dropped in the index first, its file is removed after.
    FileAfterDrop,
    /// The row of a dropped pack stays until its file is gone.
    DroppedRowStays,
    /// A frame's row points to a copy only when that is durable.
    MoveIsDurable,
    /// A frame that is taken apart changes places of rows, never their standing.
    ApartKeepsStanding,
    /// A row is never pointed to a copy from before.
    NoOlderCopies,
    /// Whoever finds a pack gone asks the index again before it takes that for damage.
    GoneAsksAgain,
    /// Numbers of frames are not used again.
    NumbersStay,
    /// Only packs of ended sessions are adopted.
    AdoptsEnded,
    /// What gets rows is durable before.
    EntersDurable,
    /// A branch is admitted only with all it refers to.
    Closure,
    /// Rebuilding admits by the same rule.
    RebuildIsAdmission,
    /// Nothing is rebuilt while a session lives.
    RebuildWithoutSessions,
    /// Nothing is rebuilt while a gc runs.
    RebuildWithoutGc,
    /// Settling looks whether the root is whole.
    SettleLooks,
    /// A purge of what is not forgotten at that point of the chain has no effect.
    PurgeOnlyForgotten,
    /// An undelete of what was purged before has no effect.
    PurgedStays,
}

use Rule::*;

impl Rule {
    /// All of them.
    pub const ALL: [Self; 37] = [
        Wait,
        SecondMark,
        RootsAfterWait,
        MarkToTheEnd,
        LockBeforeEpoch,
        NewerToldNo,
        LeaningInherits,
        LateBranchesAreRoots,
        OnlyOlderFrames,
        PutReplacesCondemned,
        LeaningReplacesNothing,
        SweptCountsAsMissing,
        LeftoverLeaningGoes,
        LateLeaningAreRoots,
        SwitchLooksAgain,
        SweepLooksAgain,
        ResumesByPhase,
        OneGc,
        MarkStops,
        OnlyClosedPacks,
        DropLooksAgain,
        FileAfterDrop,
        DroppedRowStays,
        MoveIsDurable,
        ApartKeepsStanding,
        NoOlderCopies,
        GoneAsksAgain,
        NumbersStay,
        AdoptsEnded,
        EntersDurable,
        Closure,
        RebuildIsAdmission,
        RebuildWithoutSessions,
        RebuildWithoutGc,
        SettleLooks,
        PurgeOnlyForgotten,
        PurgedStays,
    ];
}

/// The rules that hold in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules(u64);

impl Rules {
    /// Every rule.
    pub fn all() -> Self {
        Self(u64::MAX)
    }

    /// Every rule of these but one.
    pub fn without(self, rule: Rule) -> Self {
        Self(self.0 & !(1 << rule as u32))
    }

    /// Whether a rule holds.
    pub fn has(self, rule: Rule) -> bool {
        self.0 & 1 << rule as u32 != 0
    }
}
