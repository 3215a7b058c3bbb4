//! How a host stops on purpose: nothing new is begun, machines are told if it comes back, what is under way is finished,
//! and every connection ends with a word.

use super::{Host, lock};
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::Call;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use twinkeep_schema::office_capnp::copies;

/// What is under way may take so long to end; what is not durable then is not believed, as after any other end.
const FINISH: Duration = Duration::from_secs(10);

/// Machines have so long to say that they heard.
const TELL: Duration = Duration::from_secs(5);

/// How often it is looked whether all is done.
const LOOK: Duration = Duration::from_millis(10);

/// A host may say that it is away for so long at most.
pub const AWAY_SECS_MAX: u32 = 30 * 24 * 3600;

/// It goes away for so long.
#[derive(Clone, Debug)]
struct Going {
    secs: u32,
    /// Whoever heard it says so.
    heard: mpsc::UnboundedSender<()>,
}

/// See the module.
pub struct Leave {
    /// Whether nothing new is begun any more.
    is_leaving: watch::Sender<bool>,
    going: watch::Sender<Option<Going>>,
    /// Everything that was prepared for the end is done.
    over: Notify,
    /// A clone for each call of an account that is under way, and for each program on this machine.
    under_way: Arc<()>,
    programs: Arc<()>,
}

impl Default for Leave {
    fn default() -> Self {
        Self {
            is_leaving: watch::Sender::new(false),
            going: watch::Sender::new(None),
            over: Notify::new(),
            under_way: Arc::default(),
            programs: Arc::default(),
        }
    }
}

/// A call of an account under way: the host does not end in the middle of it.
pub struct UserCall {
    _call: Call,
    _under_way: Arc<()>,
}

impl Leave {
    /// Takes a call in.
    ///
    /// # Errors
    /// The host is about to stop.
    pub(super) fn begin(&self, call: Call) -> Result<UserCall, Problem> {
        if *self.is_leaving.borrow() {
            return Err(problem(Why::Away, "the host is stopping on purpose"));
        }
        Ok(UserCall { _call: call, _under_way: self.under_way.clone() })
    }

    /// To be held for as long as a program on this machine is connected.
    pub(super) fn program(&self) -> Arc<()> {
        self.programs.clone()
    }

    /// Comes when the host is about to stop.
    pub async fn begun(&self) {
        let mut is_leaving = self.is_leaving.subscribe();
        // The sender lives as long as the host, which is longer than this.
        let _ = is_leaving.wait_for(|is_leaving| *is_leaving).await;
    }

    /// Comes when it may stop.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    /// Comes when machines are to be told, and tells one. For as long as it is connected.
    pub(super) async fn tell(&self, copies: &copies::Client) {
        let mut going = self.going.subscribe();
        let Ok(going) = going.wait_for(Option::is_some).await.map(|going| going.clone()) else { return };
        if let Some(Going { secs, heard }) = going {
            let mut request = copies.away_request();
            request.get().set_secs(secs);
            // One that is too old to understand finds out by itself.
            if let Ok(Ok(_)) = tokio::time::timeout(TELL, request.send().promise).await {
                let _ = heard.send(());
            }
        }
    }
}

/// Prepares the end; with `secs` machines are told that the host is back after so many seconds. Gives how many heard it,
/// of how many that are there.
pub async fn prepare(host: &Host, secs: Option<u32>) -> (usize, usize) {
    host.leave.is_leaving.send_replace(true);
    let (mut heard, there) = (0, lock(&host.online).count());
    if let Some(secs) = secs {
        let (tell, mut told) = mpsc::unbounded_channel();
        host.leave.going.send_replace(Some(Going { secs, heard: tell }));
        let all = async {
            while heard < there && told.recv().await.is_some() {
                heard += 1;
            }
        };
        let _ = tokio::time::timeout(TELL, all).await;
    }
    tracing::info!(heard, there, secs = secs.unwrap_or(0), "the host stops on purpose");
    host.leave.over.notify_one();
    (heard, there)
}

/// Ends what is left: calls under way finish, then connections end.
pub(super) async fn finish(host: &Host) {
    host.leave.is_leaving.send_replace(true);
    let finished = async |left: &Arc<()>, least: usize, patience: Duration| {
        let all = async {
            while Arc::strong_count(left) > least {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(patience, all).await.is_ok()
    };
    if !finished(&host.leave.under_way, 1, FINISH).await {
        tracing::warn!("calls under way did not end in time: what they did not make durable is not believed");
    }
    // Each writer hears with its next call that it is over, rather than from a line that is cut.
    let told = async {
        while !host.keeping().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(TELL, told).await;
    host.connections.end_all();
    let gone = async {
        while host.connections.count() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(TELL, gone).await;
    // Who asked for the end, on this machine, still waits for the answer.
    finished(&host.leave.programs, 1, Duration::from_secs(1)).await;
}
