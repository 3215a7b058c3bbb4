//! What programs on this machine may ask of its service at a time, so that no user of the machine takes it, or the line to
//! the host that they share, from the others.
//!
//! It stands where messages come in and go out, so it holds for every call there is. Whoever asks for more waits: a
//! message is not read before the call it brings may run. A call counts from when it is read until its answer is made;
//! answers that nobody fetches count as bytes, and whoever leaves one lying for too long is hung up on.

use super::limits::{
    CALLS_LEN_MAX, LOCAL_CALLS_MAX, LOCAL_CALLS_PER_CONNECTION_MAX, LOCAL_CALLS_PER_USER_MAX, LOCAL_CONNECTIONS_MAX,
    LOCAL_CONNECTIONS_PER_USER_MAX, LOCAL_LOGINS_PER_USER_MAX, LOCAL_UNSENT_LEN_MAX, LOCAL_UNSENT_MAX, PING_DEADLINE,
};
use super::meter::Bytes;
use super::problem::{Problem, Why, problem};
use capnp::Error;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// Everybody who is connected.
pub struct Gate {
    users: RefCell<HashMap<u32, Weak<User>>>,
    connections: Cell<usize>,
    calls: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        let calls = Arc::new(Semaphore::new(LOCAL_CALLS_MAX));
        Self { users: RefCell::default(), connections: Cell::default(), calls }
    }
}

/// What one user of the machine has.
struct User {
    connections: Cell<usize>,
    logins: Cell<usize>,
    calls: Arc<Semaphore>,
    /// Bytes of the messages that bring them.
    calls_len: Rc<Bytes>,
    /// Bytes of answers that were not fetched yet.
    unsent_len: Cell<usize>,
    less: Notify,
}

/// A connection that was let in; it counts until this goes.
pub struct Guest {
    gate: Rc<Gate>,
    user: Rc<User>,
    calls: Arc<Semaphore>,
    /// Answers that were not fetched yet.
    unsent: Cell<usize>,
    less: Notify,
    end: Notify,
}

/// A login under way; it counts until this goes.
pub struct Attempt(Rc<Guest>);

impl Gate {
    /// Lets a user in once more; nothing where it, or everybody together, has enough.
    pub fn enter(self: &Rc<Self>, uid: u32) -> Option<Rc<Guest>> {
        let mut users = self.users.borrow_mut();
        users.retain(|_, user| user.strong_count() > 0);
        let user = users.get(&uid).and_then(Weak::upgrade).unwrap_or_else(|| {
            let user = Rc::new(User {
                connections: Cell::default(),
                logins: Cell::default(),
                calls: Arc::new(Semaphore::new(LOCAL_CALLS_PER_USER_MAX)),
                calls_len: Bytes::new(CALLS_LEN_MAX),
                unsent_len: Cell::default(),
                less: Notify::new(),
            });
            users.insert(uid, Rc::downgrade(&user));
            user
        });
        if self.connections.get() >= LOCAL_CONNECTIONS_MAX || user.connections.get() >= LOCAL_CONNECTIONS_PER_USER_MAX {
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        user.connections.set(user.connections.get() + 1);
        Some(Rc::new(Guest {
            gate: self.clone(),
            user,
            calls: Arc::new(Semaphore::new(LOCAL_CALLS_PER_CONNECTION_MAX)),
            unsent: Cell::default(),
            less: Notify::new(),
            end: Notify::new(),
        }))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.gate.connections.set(self.gate.connections.get() - 1);
        self.user.connections.set(self.user.connections.get() - 1);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.user.logins.set(self.0.user.logins.get() - 1);
    }
}

type Permits = [OwnedSemaphorePermit; 3];

impl Guest {
    /// Begins a login.
    ///
    /// # Errors
    /// This user has too many under way.
    pub fn attempt(self: &Rc<Self>) -> Result<Attempt, Problem> {
        let logins = &self.user.logins;
        if logins.get() >= LOCAL_LOGINS_PER_USER_MAX {
            let text = format!("this user has {LOCAL_LOGINS_PER_USER_MAX} logins under way on this machine");
            return Err(problem(Why::Busy, text));
        }
        logins.set(logins.get() + 1);
        Ok(Attempt(self.clone()))
    }

    /// Of messages of this user's programs.
    pub(super) fn bytes(&self) -> Rc<Bytes> {
        self.user.calls_len.clone()
    }

    /// Comes when the connection is to end.
    pub async fn ended(&self) {
        self.end.notified().await;
    }

    /// Waits until one more call may run.
    async fn begin(&self) -> Result<Permits, Error> {
        while self.unsent.get() >= LOCAL_UNSENT_MAX {
            self.less.notified().await;
        }
        loop {
            let mut less = pin!(self.user.less.notified());
            less.as_mut().enable();
            if self.user.unsent_len.get() < LOCAL_UNSENT_LEN_MAX {
                break;
            }
            less.await;
        }
        // The own ones first: who waits for others keeps nothing of theirs.
        let mut permits = Vec::with_capacity(3);
        for calls in [&self.calls, &self.user.calls, &self.gate.calls] {
            let permit = calls.clone().acquire_owned().await;
            permits.push(permit.map_err(|_| Error::failed("the gate is closed".to_owned()))?);
        }
        permits.try_into().map_err(|_| Error::failed("three permits are three".to_owned()))
    }

    /// An answer is on its way: it counts until it is fetched. Gives when that was.
    fn sending(self: &Rc<Self>, len: usize, sent: Promise<(), Error>) -> Promise<(), Error> {
        self.unsent.set(self.unsent.get() + 1);
        self.user.unsent_len.set(self.user.unsent_len.get() + len);
        let (tell, told) = oneshot::channel();
        let guest = self.clone();
        tokio::task::spawn_local(async move {
            let done = tokio::time::timeout(PING_DEADLINE, sent).await.unwrap_or_else(|_| {
                guest.end.notify_one();
                Err(Error::disconnected("nobody fetches the answers".to_owned()))
            });
            guest.unsent.set(guest.unsent.get() - 1);
            guest.user.unsent_len.set(guest.user.unsent_len.get() - len);
            guest.less.notify_one();
            guest.user.less.notify_waiters();
            // Whoever made the answer may not wait.
            let _ = tell.send(done);
        });
        Promise::from_future(async move {
            told.await.unwrap_or_else(|_| Err(Error::disconnected("the connection has ended".to_owned())))
        })
    }
}

/// A network through the gate.
pub(super) struct Gated<N> {
    pub network: N,
    pub guest: Rc<Guest>,
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for Gated<N> {
    fn connect(&mut self, host_id: Side) -> Option<Box<dyn Connection<Side>>> {
        self.network.connect(host_id).map(|connection| GatedConnection::boxed(connection, self.guest.clone()))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let (accepted, guest) = (self.network.accept(), self.guest.clone());
        Promise::from_future(async move { Ok(GatedConnection::boxed(accepted.await?, guest)) })
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.network.drive_until_shutdown()
    }
}

/// Calls that were let in, by the number their answers bear.
type Running = Rc<RefCell<HashMap<u32, Permits>>>;

struct GatedConnection {
    connection: Box<dyn Connection<Side>>,
    guest: Rc<Guest>,
    running: Running,
}

impl GatedConnection {
    fn boxed(connection: Box<dyn Connection<Side>>, guest: Rc<Guest>) -> Box<dyn Connection<Side>> {
        Box::new(Self { connection, guest, running: Running::default() })
    }
}

/// The number of a call; nothing of other messages.
fn call_of(message: &dyn IncomingMessage) -> Option<u32> {
    let root: message::Reader<'_> = message.get_body().ok()?.get_as().ok()?;
    match root.which() {
        Ok(message::Call(call)) => Some(call.ok()?.get_question_id()),
        // What is none of the protocol is found out by whoever reads it.
        _ => None,
    }
}

/// The number of the call that a message answers.
fn answered_by(message: &dyn OutgoingMessage) -> Option<u32> {
    let root: message::Reader<'_> = message.get_body_as_reader().ok()?.get_as().ok()?;
    match root.which() {
        Ok(message::Return(answer)) => Some(answer.ok()?.get_answer_id()),
        _ => None,
    }
}

impl Connection<Side> for GatedConnection {
    fn get_peer_vat_id(&self) -> Side {
        self.connection.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        let message = self.connection.new_outgoing_message(first_segment_word_size);
        Box::new(GatedMessage { message, guest: self.guest.clone(), running: self.running.clone() })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let received = self.connection.receive_incoming_message();
        let (guest, running) = (self.guest.clone(), self.running.clone());
        Promise::from_future(async move {
            let Some(message) = received.await? else { return Ok(None) };
            if let Some(number) = call_of(&*message) {
                let permits = guest.begin().await?;
                running.borrow_mut().insert(number, permits);
            }
            Ok(Some(message))
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), Error>) {
        self.connection.new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        self.connection.shutdown(result)
    }
}

struct GatedMessage {
    message: Box<dyn OutgoingMessage>,
    guest: Rc<Guest>,
    running: Running,
}

impl OutgoingMessage for GatedMessage {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.message.get_body()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_body_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Builder<HeapAllocator>>) {
        let answered = answered_by(&*self.message);
        let len = self.message.size_in_words() * 8;
        let (sent, bytes) = self.message.send();
        let Some(number) = answered else { return (sent, bytes) };
        drop(self.running.borrow_mut().remove(&number));
        (self.guest.sending(len, sent), bytes)
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.message.take()
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn every_user_has_a_share() {
        let gate = Rc::new(Gate::default());
        let own: Vec<_> = (0..LOCAL_CONNECTIONS_PER_USER_MAX).map(|_| gate.enter(1000).unwrap()).collect();
        assert!(gate.enter(1000).is_none(), "one user has enough");
        let mut others = Vec::new();
        let mut uid = 1001;
        while let Some(guest) = gate.enter(uid) {
            others.push(guest);
            uid += u32::from(others.len().is_multiple_of(8));
        }
        assert_eq!(own.len() + others.len(), LOCAL_CONNECTIONS_MAX);
        others.pop();
        assert!(gate.enter(1000).is_none() && gate.enter(5).is_some());
        drop(own);
        assert!(gate.enter(1000).is_some());
        assert!(gate.users.borrow().len() <= 2 + others.len() / 8 + 1, "who has gone is forgotten");
    }

    #[test]
    fn calls_wait_for_their_connection_their_user_and_all() {
        let gate = Rc::new(Gate::default());
        let now = |guest: &Rc<Guest>| guest.begin().now_or_never().map(Result::unwrap);
        let guests: Vec<_> = (0..4).map(|_| gate.enter(1).unwrap()).collect();
        let mut held: Vec<Permits> = (0..LOCAL_CALLS_PER_CONNECTION_MAX).map(|_| now(&guests[0]).unwrap()).collect();
        assert!(now(&guests[0]).is_none(), "one connection has enough");
        while let Some(permits) = guests[1..].iter().find_map(now) {
            held.push(permits);
        }
        assert_eq!(held.len(), LOCAL_CALLS_PER_USER_MAX, "one user has enough");
        // Others still have theirs, until all of the line is taken.
        let mut uid = 2;
        let mut crowd = Vec::new();
        loop {
            let guest = gate.enter(uid).unwrap();
            let more: Vec<Permits> = std::iter::from_fn(|| now(&guest)).collect();
            if more.is_empty() {
                break;
            }
            uid += 1;
            crowd.push((guest, more));
        }
        let others: usize = crowd.iter().map(|(_, more)| more.len()).sum();
        assert_eq!(held.len() + others, LOCAL_CALLS_MAX);
        held.pop();
        assert!(gate.enter(uid).is_some_and(|guest| now(&guest).is_some()));
    }

    #[test]
    fn logins_are_counted() {
        let gate = Rc::new(Gate::default());
        let (first, second) = (gate.enter(1).unwrap(), gate.enter(1).unwrap());
        let mut under_way: Vec<_> = (0..LOCAL_LOGINS_PER_USER_MAX).map(|_| first.attempt().unwrap()).collect();
        assert_eq!(second.attempt().err().map(|problem| problem.why), Some(Why::Busy));
        under_way.pop();
        assert!(second.attempt().is_ok() && gate.enter(2).unwrap().attempt().is_ok());
    }
}
