//! One state of a small vault: what is on disk, what is in the index, what sessions and gc remember.
//!
//! Five chunks: leaves `a` and `b`; the branch `m` over `a`; the roots `r` over `m`, and `s` over `m` and `b`. A frame
//! holds two chunks and a pack two frames. Everything has a fixed size, so that a state is compared as it stands.

/// Chunks there are.
pub const CHUNKS: usize = 5;
/// Frame numbers there are.
pub const FRAMES: usize = 8;
/// Packs there are.
pub const PACKS: usize = 7;
/// Refs there are.
pub const REFS: usize = 4;
/// No chunk, frame or pack.
pub const NONE: u8 = 0xff;
/// An empty position of a frame.
pub const EMPTY: u8 = 0xf;

/// A chunk, from 0; a child has a lower one than its parents.
pub type Chunk = u8;
/// A leaf.
pub const A: Chunk = 0;
/// A leaf.
pub const B: Chunk = 1;
/// A branch over `a`.
pub const M: Chunk = 2;
/// A root over `m`.
pub const R: Chunk = 3;
/// A root over `m` and `b`.
pub const S: Chunk = 4;
/// Names for people.
pub const NAMES: [&str; CHUNKS] = ["a", "b", "m", "r", "s"];
/// Children of each chunk, as bits.
pub const CHILDREN: [u8; CHUNKS] = [0, 0, 1 << A, 1 << M, 1 << M | 1 << B];
/// Each chunk with everything below it, as bits.
pub const CLOSURE: [u8; CHUNKS] =
    [1 << A, 1 << B, 1 << M | 1 << A, 1 << R | 1 << M | 1 << A, 1 << S | 1 << M | 1 << B | 1 << A];

/// Whether a chunk is a leaf.
pub fn is_leaf(chunk: Chunk) -> bool {
    CHILDREN[chunk as usize] == 0
}

/// The chunks whose bits are set, lowest first.
pub fn bits(set: u8) -> impl DoubleEndedIterator<Item = Chunk> {
    (0..8).filter(move |bit| set & 1 << bit != 0)
}

/// What the index says about a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub enum Standing {
    /// Nothing.
    #[default]
    Absent,
    /// Stored, and all below it is.
    Admitted,
    /// Stored, and something below it is missing.
    Unwhole,
    /// In a frame that was found bad.
    Suspect,
    /// Stored over something condemned.
    Leaning,
}

/// A row of the index: where a chunk is. The place is twice the frame number plus the position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Row {
    /// Place.
    pub place: u8,
    /// Standing.
    pub standing: Standing,
}

/// What the index says about a pack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PackState {
    /// Nothing.
    #[default]
    Absent,
    /// More may come.
    Open,
    /// Wholly indexed.
    Closed,
    /// Not used any more; its file is about to be removed.
    Dropped,
}

/// A pack: its file, and its row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pack {
    /// Whether the file is there.
    pub has_file: bool,
    /// Row.
    pub state: PackState,
    /// Two chunks a frame, four bits each.
    pub frames: [u8; 2],
    /// Frames in the file.
    pub len: u8,
    /// Frames that are in the index, too.
    pub indexed: u8,
    /// Frames that cannot be read, as bits.
    pub bad: u8,
    /// Frames that survive a power cut.
    pub durable: u8,
}

/// Where gc stands, in the index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Phase {
    /// Nothing is condemned.
    #[default]
    None,
    /// Some places are condemned and may be saved.
    Condemned,
    /// They are being swept.
    Sweeping,
}

/// A published root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ref {
    /// Root.
    pub root: Chunk,
    /// As the chain is read: forgotten.
    pub is_forgotten: bool,
    /// As the chain is read: no root of gc any more.
    pub is_purged: bool,
    /// Not in the vault: whether somebody may count on it still.
    pub is_counted_on: bool,
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub enum Stage {
    /// There is none.
    #[default]
    Free,
    /// It read the epoch without having its lock.
    Loose,
    /// It has its lock.
    Locked,
    /// It claims, puts and settles.
    Writing,
    /// Its root was acknowledged.
    Settled,
    /// Its record is written.
    Published,
}

/// A writer's run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Session {
    /// How far.
    pub stage: Stage,
    /// What it backs up.
    pub root: Chunk,
    /// Epoch it read.
    pub epoch: u8,
    /// Chunks to claim, as bits.
    pub need: u8,
    /// Chunks to put, as bits.
    pub mine: u8,
    /// Its pack.
    pub pack: u8,
    /// Whether the index it opened is not the vault's any more.
    pub is_stale: bool,
    /// Not in the vault: whether it was told something wrong when it settled.
    pub is_misled: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self { stage: Stage::Free, root: 0, epoch: 0, need: 0, mine: 0, pack: NONE, is_stale: false, is_misled: false }
    }
}

impl Session {
    /// Whether it holds its lock.
    pub fn is_locked(&self) -> bool {
        self.stage > Stage::Loose
    }
}

/// What gc does next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Work {
    /// No gc runs.
    #[default]
    Idle,
    /// Remember the next frame number.
    Bound,
    /// Mark.
    Mark,
    /// See which sessions live.
    List,
    /// Wait for these.
    Wait,
    /// Mark again.
    MarkAgain,
    /// Delete rows.
    Sweep,
    /// Look for packs to drop or to move.
    Packs,
    /// Drop one.
    Drop,
    /// Remove its file.
    Remove,
    /// Delete its row.
    Unlist,
    /// Sync a copy.
    Sync,
    /// Point the frame's row to it.
    Move,
    /// Point rows to copies of chunks.
    Apart,
}

/// A gc's memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Gc {
    /// What it does next.
    pub work: Work,
    /// Frames from here on are not condemned.
    pub bound: u8,
    /// Places reached, as bits.
    pub marked: u16,
    /// Chunks reached and not looked at, as bits.
    pub to_see: u8,
    /// Chunks reached, as bits.
    pub seen: u8,
    /// Sessions it waits for, as bits.
    pub wait: u8,
    /// Chunks to delete, as bits: only without the rule that looks again.
    pub plan: u8,
    /// The pack it works at.
    pub pack: u8,
    /// The pack it copies into.
    pub copy: u8,
    /// The frame it moves.
    pub frame: u8,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            work: Work::Idle,
            bound: 0,
            marked: 0,
            to_see: 0,
            seen: 0,
            wait: 0,
            plan: 0,
            pack: NONE,
            copy: NONE,
            frame: NONE,
        }
    }
}

/// What may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// Sessions that may begin.
    pub sessions: u8,
    /// Roots they may back up, as bits.
    pub roots: u8,
    /// Sessions that may be killed.
    pub kills: u8,
    /// Runs of gc.
    pub gcs: u8,
    /// Runs of gc that may be killed.
    pub crashes: u8,
    /// Frames that gc may move or take apart.
    pub moves: u8,
    /// Forgets, undeletes and purges each.
    pub changes: u8,
    /// Frames that may go bad.
    pub damages: u8,
    /// Rebuilds.
    pub rebuilds: u8,
    /// Power cuts.
    pub cuts: u8,
    /// Readers that may find a pack gone.
    pub readers: u8,
}

/// A state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// Rows by chunk.
    pub rows: [Row; CHUNKS],
    /// Pack and position of each frame: twice the pack plus the position, or `NONE`.
    pub frames: [u8; FRAMES],
    /// Next frame number.
    pub next_frame: u8,
    /// Packs.
    pub packs: [Pack; PACKS],
    /// Next pack.
    pub next_pack: u8,
    /// Condemned places, as bits.
    pub condemned: u16,
    /// Phase of gc.
    pub phase: Phase,
    /// How often something was condemned.
    pub epoch: u8,
    /// Refs.
    pub refs: [Ref; REFS],
    /// How many of them there are.
    pub ref_count: u8,
    /// A ref that retention is about to purge.
    pub to_purge: u8,
    /// Sessions.
    pub sessions: [Session; 2],
    /// gc; the second only without the rule that there is one.
    pub gcs: [Gc; 2],
    /// Frame and pack that a reader looked up.
    pub reader: [u8; 2],
    /// Chunks that damage took, as bits.
    pub hit: u8,
    /// Whether there was damage at all.
    pub was_hit: bool,
    /// What may still happen.
    pub left: Budget,
}

impl State {
    /// An empty vault.
    pub fn new() -> Self {
        Self {
            rows: Default::default(),
            frames: [NONE; FRAMES],
            next_frame: 0,
            packs: Default::default(),
            next_pack: 0,
            condemned: 0,
            phase: Phase::None,
            epoch: 0,
            refs: Default::default(),
            ref_count: 0,
            to_purge: NONE,
            sessions: Default::default(),
            gcs: Default::default(),
            reader: [NONE; 2],
            hit: 0,
            was_hit: false,
            left: Budget::default(),
        }
    }

    /// Refs there are.
    pub fn refs(&self) -> &[Ref] {
        &self.refs[..self.ref_count as usize]
    }

    /// Sessions do not differ but by what they do: the order of the two means nothing.
    pub fn settled_order(mut self) -> Self {
        if self.sessions[0] > self.sessions[1] {
            self.sessions.swap(0, 1);
            for gc in &mut self.gcs {
                gc.wait = (gc.wait & 1) << 1 | gc.wait >> 1;
            }
        }
        self
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}
