//! What the messages of one connection take in memory, whatever the calls in them mean.
//!
//! It stands where messages come in and go out, so it holds for calls that wait for another one, too, and for messages
//! that are no calls. A message counts for as long as anybody has it: while its call runs, or waits to. With too many
//! bytes of them, or of answers that are not fetched, nothing new is read: whoever means well notices nothing but that
//! it is not answered faster than that goes. What only the other side can end, and whoever means well ends at once, ends
//! the connection when it is too much.

use super::limits::{ANSWERS_MAX, CALLS_LEN_MAX, CAPS_MAX, CAPS_PER_MESSAGE_MAX, UNSENT_LEN_MAX};
use capnp::Error;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{cap_descriptor, message, return_};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use tokio::sync::Notify;

/// Bytes that count against a bound; shared by those that it holds for together.
pub(super) struct Bytes {
    max: usize,
    len: Cell<usize>,
    less: Notify,
}

impl Bytes {
    pub fn new(max: usize) -> Rc<Self> {
        Rc::new(Self { max, len: Cell::default(), less: Notify::new() })
    }

    /// Waits until there are fewer than may be.
    async fn room(&self) {
        loop {
            let mut less = pin!(self.less.notified());
            less.as_mut().enable();
            if self.len.get() < self.max {
                return;
            }
            less.await;
        }
    }

    /// These count until what is given goes.
    fn count(self: &Rc<Self>, len: usize) -> Counted {
        self.len.set(self.len.get() + len);
        Counted(self.clone(), len)
    }
}

struct Counted(Rc<Bytes>, usize);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.len.set(self.0.len.get() - self.1);
        self.0.less.notify_waiters();
    }
}

/// See the module.
pub(super) struct Meter {
    /// Bytes read since the last message.
    read: Rc<Cell<usize>>,
    /// Of messages that somebody has.
    calls: Rc<Bytes>,
    unsent: Rc<Bytes>,
    /// By their numbers, calls of which the other side has not said that it is done with them.
    answers: RefCell<HashMap<u32, Answer>>,
    /// Capabilities that were given to the other side and that it has not given back.
    caps: Cell<u64>,
}

/// How far a call has come.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Awaited,
    /// It was answered, with so many capabilities, and the other side goes on using the answer.
    Given(u32),
    /// The other side does not want the answer any more.
    Unwanted,
}

fn refuse(text: impl Into<String>) -> Error {
    Error::failed(text.into())
}

impl Meter {
    /// `read` is where bytes are counted as they are read; `calls` may be shared by several connections.
    pub fn new(read: Rc<Cell<usize>>, calls: Rc<Bytes>) -> Rc<Self> {
        Rc::new(Self {
            read,
            calls,
            unsent: Bytes::new(UNSENT_LEN_MAX),
            answers: RefCell::default(),
            caps: Cell::default(),
        })
    }

    /// The same for one connection alone.
    pub fn of_one(read: Rc<Cell<usize>>) -> Rc<Self> {
        Self::new(read, Bytes::new(CALLS_LEN_MAX))
    }

    fn asked(&self, number: u32) -> Result<(), Error> {
        let mut answers = self.answers.borrow_mut();
        if answers.len() >= ANSWERS_MAX {
            return Err(refuse(format!("{ANSWERS_MAX} calls are not done with")));
        }
        if self.caps.get() >= CAPS_MAX {
            return Err(refuse(format!("{CAPS_MAX} capabilities are kept")));
        }
        answers.insert(number, Answer::Awaited);
        Ok(())
    }

    fn answered(&self, number: u32, is_over: bool, caps: u32) {
        self.caps.set(self.caps.get() + u64::from(caps));
        let mut answers = self.answers.borrow_mut();
        match answers.get(&number) {
            Some(Answer::Awaited) if !is_over => drop(answers.insert(number, Answer::Given(caps))),
            _ => drop(answers.remove(&number)),
        }
    }

    fn finished(&self, number: u32, are_back: bool) {
        let mut answers = self.answers.borrow_mut();
        match answers.get(&number) {
            // It may go on, for another one that waits for it; and it may be that nobody ever answers it.
            Some(Answer::Awaited) => drop(answers.insert(number, Answer::Unwanted)),
            Some(Answer::Given(caps)) => {
                self.given_back(if are_back { u64::from(*caps) } else { 0 });
                answers.remove(&number);
            }
            Some(Answer::Unwanted) | None => {}
        }
    }

    fn given_back(&self, caps: u64) {
        self.caps.set(self.caps.get().saturating_sub(caps));
    }

    /// A message has come.
    ///
    /// # Errors
    /// Nobody who means well sends it: the connection ends.
    fn take(&self, message: &dyn IncomingMessage) -> Result<(), Error> {
        let root: message::Reader<'_> = message.get_body()?.get_as()?;
        match root.which() {
            Ok(message::Call(call)) => {
                let call = call?;
                few_caps(call.get_params()?.get_cap_table()?)?;
                // An answer that is not sent is kept here for as long as the other side likes.
                match call.get_send_results_to().which()? {
                    capnp_rpc::rpc_capnp::call::send_results_to::Caller(()) => self.asked(call.get_question_id()),
                    _ => Err(refuse("answers go to whoever asks")),
                }
            }
            Ok(message::Bootstrap(asked)) => self.asked(asked?.get_question_id()),
            Ok(message::Return(answer)) => match answer?.which()? {
                return_::Results(results) => few_caps(results?.get_cap_table()?),
                _ => Ok(()),
            },
            Ok(message::Finish(finish)) => {
                let finish = finish?;
                self.finished(finish.get_question_id(), finish.get_release_result_caps());
                Ok(())
            }
            Ok(message::Release(release)) => {
                self.given_back(release?.get_reference_count().into());
                Ok(())
            }
            // What is none of the protocol is found out by whoever reads it.
            _ => Ok(()),
        }
    }

    /// A message goes out. Tells whether it is a question of ours, which are as many as we like to ask.
    fn give(&self, message: &dyn OutgoingMessage) -> Result<bool, Error> {
        let root: message::Reader<'_> = message.get_body_as_reader()?.get_as()?;
        match root.which() {
            Ok(message::Return(answer)) => {
                let answer = answer?;
                let caps = match answer.which()? {
                    return_::Results(results) => results?.get_cap_table()?.iter().filter(is_ours).count() as u32,
                    _ => 0,
                };
                self.answered(answer.get_answer_id(), answer.get_no_finish_needed(), caps);
                Ok(false)
            }
            Ok(message::Call(_) | message::Bootstrap(_)) => Ok(true),
            _ => Ok(false),
        }
    }
}

/// Whether a capability stays here until the other side gives it back.
fn is_ours(cap: &cap_descriptor::Reader<'_>) -> bool {
    matches!(cap.which(), Ok(cap_descriptor::SenderHosted(_) | cap_descriptor::SenderPromise(_)))
}

/// Each costs many times its own length, and an answer when it goes.
fn few_caps(table: capnp::struct_list::Reader<'_, cap_descriptor::Owned>) -> Result<(), Error> {
    match table.len() <= CAPS_PER_MESSAGE_MAX {
        true => Ok(()),
        false => Err(refuse(format!("{} capabilities in one message", table.len()))),
    }
}

/// A network whose messages are counted.
pub(super) struct Metered<N> {
    pub network: N,
    pub meter: Rc<Meter>,
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for Metered<N> {
    fn connect(&mut self, host_id: Side) -> Option<Box<dyn Connection<Side>>> {
        self.network.connect(host_id).map(|connection| MeteredConnection::boxed(connection, self.meter.clone()))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let (accepted, meter) = (self.network.accept(), self.meter.clone());
        Promise::from_future(async move { Ok(MeteredConnection::boxed(accepted.await?, meter)) })
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.network.drive_until_shutdown()
    }
}

struct MeteredConnection {
    connection: Box<dyn Connection<Side>>,
    meter: Rc<Meter>,
}

impl MeteredConnection {
    fn boxed(connection: Box<dyn Connection<Side>>, meter: Rc<Meter>) -> Box<dyn Connection<Side>> {
        Box::new(Self { connection, meter })
    }
}

impl Connection<Side> for MeteredConnection {
    fn get_peer_vat_id(&self) -> Side {
        self.connection.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        let message = self.connection.new_outgoing_message(first_segment_word_size);
        Box::new(Outgoing { message, meter: self.meter.clone() })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let (received, meter) = (self.connection.receive_incoming_message(), self.meter.clone());
        Promise::from_future(async move {
            meter.unsent.room().await;
            meter.calls.room().await;
            let Some(message) = received.await? else { return Ok(None) };
            meter.take(&*message)?;
            let _counted = meter.calls.count(meter.read.take());
            Ok(Some(Box::new(Incoming { message, _counted }) as Box<dyn IncomingMessage>))
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), Error>) {
        self.connection.new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        self.connection.shutdown(result)
    }
}

struct Incoming {
    message: Box<dyn IncomingMessage>,
    _counted: Counted,
}

impl IncomingMessage for Incoming {
    fn get_body(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_body()
    }
}

struct Outgoing {
    message: Box<dyn OutgoingMessage>,
    meter: Rc<Meter>,
}

impl OutgoingMessage for Outgoing {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.message.get_body()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_body_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Builder<HeapAllocator>>) {
        let len = self.message.size_in_words() * 8;
        // One that cannot be read is none of ours, and counts.
        let is_question = self.meter.give(&*self.message).unwrap_or(false);
        let (sent, bytes) = self.message.send();
        if is_question {
            return (sent, bytes);
        }
        let counted = self.meter.unsent.count(len);
        let (tell, told) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(async move {
            let done = sent.await;
            drop(counted);
            // Whoever made the message may not wait.
            let _ = tell.send(done);
        });
        let told = async move { told.await.unwrap_or_else(|_| Err(Error::disconnected("it has ended".to_owned()))) };
        (Promise::from_future(told), bytes)
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.message.take()
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}

#[cfg(test)]
mod tests;
