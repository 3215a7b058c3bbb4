//! Bounds of everything that comes over a wire.

use std::time::Duration;
use twinkeep_engine::limits::FRAME_LEN_MAX;

/// The version of this program, as machines tell it each other; nothing is decided by it.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// TCP port of a host, unless told otherwise.
pub const PORT: u16 = 7272;

/// A handshake takes one round trip; who needs longer is broken or hostile.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// Connections that have not completed their handshake, all together.
pub const HANDSHAKES_MAX: usize = 64;

/// The same from one address.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 4;

/// Connections at a time, all together: each costs some ten kilobytes and a socket.
pub const CONNECTIONS_MAX: usize = 1024;

/// Connections at a time of one key: a machine has one, and while its network comes and goes some that are not missed
/// yet; while its service does not run, its programs have one each. Each of them may take some hundred megabytes.
pub const CONNECTIONS_PER_KEY_MAX: usize = 16;

/// Connections at a time of keys that are no machine's of the office: whoever has not joined yet, or is not trusted any
/// more. Keys cost nothing to make, so these must not take the place of others.
pub const STRANGERS_MAX: usize = 128;

/// The same from one address.
pub const STRANGERS_PER_ADDRESS_MAX: usize = 8;

/// A stranger has so long to join: it is a matter of three calls.
pub const STRANGER: Duration = Duration::from_secs(30);

/// Bytes that are read of a stranger: three calls take less than a hundredth, and what is asked without an answer being
/// fetched stays in memory.
pub const STRANGER_LEN: u64 = 64 << 10;

/// Logins, sessions, vaults, uploads, pins and the like that one connection may have: each holds memory for as long as it
/// is held. A program has some five, and those of a machine share a connection.
pub const HELD_MAX: usize = 2048;

/// The same of one account: others that use the machine are not kept out.
pub const HELD_PER_ACCOUNT_MAX: usize = 512;

/// Bytes of frames and records on their way to one connection. Who asks for more waits until what came before is sent,
/// or a machine that asks and does not read could have the host's memory filled.
pub const ANSWERS_LEN_MAX: usize = 64 << 20;

/// Writers of one machine at a time, over all its connections: each has files open.
pub const SESSIONS_PER_MACHINE_MAX: usize = 64;

/// The same of one account on that machine: others that use it can still back up.
pub const SESSIONS_PER_ACCOUNT_MAX: usize = 16;

/// Calls of one connection that may be under way. A client of ours has fewer than a tenth of it.
pub const CALLS_MAX: usize = 512;

/// Bytes of messages whose calls are under way, of one connection, or of one user's programs. With so many of them nothing
/// new is read: a sender's window fits several times.
pub const CALLS_LEN_MAX: usize = 32 << 20;

/// Calls of one connection that the other side is not done with. It is done with most as soon as they are answered, and
/// each of the others costs some hundred bytes.
pub const ANSWERS_MAX: usize = 16 << 10;

/// Capabilities in one message: nobody sends more than one.
pub const CAPS_PER_MESSAGE_MAX: u32 = 16;

/// Capabilities that one connection keeps, whatever they are: what takes memory is refused before, see [`HELD_MAX`].
pub const CAPS_MAX: u64 = 8 << 10;

/// Bytes of answers that a connection has not fetched; with so many of them nothing new is read of it.
pub const UNSENT_LEN_MAX: usize = ANSWERS_LEN_MAX + (16 << 20);

/// Programs of this machine that are connected to its service: each costs some hundred kilobytes.
pub const LOCAL_CONNECTIONS_MAX: usize = 512;

/// The same of one user: others of the machine are not kept out.
pub const LOCAL_CONNECTIONS_PER_USER_MAX: usize = 64;

/// Calls under way of all programs on this machine: they share one connection to the host, which ends with more than
/// [`CALLS_MAX`]; the service's own calls have the rest.
pub const LOCAL_CALLS_MAX: usize = 448;

/// The same of one user.
pub const LOCAL_CALLS_PER_USER_MAX: usize = 128;

/// The same of one program: a backup on many cores has half of it.
pub const LOCAL_CALLS_PER_CONNECTION_MAX: usize = 64;

/// Logins under way of one user of the machine: the host holds each of them, and not too many for one machine.
pub const LOCAL_LOGINS_PER_USER_MAX: usize = 64;

/// Answers that one program has not fetched; with so many of them nothing new is read of it.
pub const LOCAL_UNSENT_MAX: usize = 256;

/// Bytes of answers that programs of one user have not fetched; with so many of them nothing new is read of them.
pub const LOCAL_UNSENT_LEN_MAX: usize = 64 << 20;

/// Bytes of streamed calls that a sender may have under way on one stream.
pub const WINDOW_LEN: usize = 4 << 20;

/// Words of one message that may be read, 8 bytes each.
pub const MESSAGE_WORDS_MAX: usize = 4 << 20;

/// Pointers of one message that may be nested.
pub const MESSAGE_NESTING_MAX: i32 = 32;

/// Ids in one call.
pub const IDS_MAX: usize = 16 << 10;

/// Places in one answer.
pub const PLACES_MAX: usize = 8 << 10;

/// Bytes of records in one answer.
pub const RECORDS_LEN_MAX: usize = 8 << 20;

/// How often a machine says that it is there.
pub const BEAT: Duration = Duration::from_secs(5);

/// A side that is silent for so long, while it was asked something, is taken for gone.
pub const PING_DEADLINE: Duration = Duration::from_secs(30);

/// First and longest wait between attempts to reach the other side again.
pub const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

const _: () = assert!(SESSIONS_PER_ACCOUNT_MAX * 4 <= SESSIONS_PER_MACHINE_MAX);
// A frame and the message around it fit in what a reader accepts.
const _: () = assert!(FRAME_LEN_MAX + 4096 < MESSAGE_WORDS_MAX * 8);
const _: () = assert!(STRANGERS_MAX < CONNECTIONS_MAX && STRANGERS_PER_ADDRESS_MAX < STRANGERS_MAX);
const _: () = assert!(LOCAL_CALLS_MAX + 32 < CALLS_MAX && LOCAL_CALLS_PER_USER_MAX * 2 < LOCAL_CALLS_MAX);
const _: () = assert!(LOCAL_CALLS_PER_CONNECTION_MAX < LOCAL_CALLS_PER_USER_MAX);
const _: () = assert!(LOCAL_CONNECTIONS_PER_USER_MAX * 4 <= LOCAL_CONNECTIONS_MAX);
const _: () = assert!(LOCAL_LOGINS_PER_USER_MAX * 4 <= HELD_MAX && HELD_PER_ACCOUNT_MAX * 4 <= HELD_MAX);
const _: () = assert!(2 * HELD_MAX as u64 <= CAPS_MAX);
const _: () = assert!(4 * WINDOW_LEN <= CALLS_LEN_MAX && LOCAL_CALLS_MAX < CALLS_MAX && CALLS_MAX < ANSWERS_MAX);
const _: () = assert!(2 * FRAME_LEN_MAX <= ANSWERS_LEN_MAX && RECORDS_LEN_MAX < ANSWERS_LEN_MAX);
