use super::*;
use crate::transport::rpc::Connection as Line;
use capnp::capability::{Client as AnyClient, FromClientHook};
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_capnp::call;
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::task::{JoinHandle, LocalSet, yield_now};
use twinkeep_schema::office_capnp::{bootstrap, login};

/// Answers some calls, and one of them never.
struct Server;

struct Nobody;

impl login::Server for Nobody {}

impl bootstrap::Server for Server {
    async fn hello(
        self: Rc<Self>,
        _: bootstrap::HelloParams,
        mut results: bootstrap::HelloResults,
    ) -> Result<(), Error> {
        results.get().set_version(1);
        Ok(())
    }

    async fn status(self: Rc<Self>, _: bootstrap::StatusParams, _: bootstrap::StatusResults) -> Result<(), Error> {
        std::future::pending().await
    }

    async fn login(
        self: Rc<Self>,
        _: bootstrap::LoginParams,
        mut results: bootstrap::LoginResults,
    ) -> Result<(), Error> {
        results.get().set_login(capnp_rpc::new_client(Nobody));
        Ok(())
    }
}

const HELLO: u16 = 0;
/// The server knows no such call.
const JOIN: u16 = 1;
const STATUS: u16 = 2;
const LOGIN: u16 = 4;

struct Served {
    near: DuplexStream,
    meter: Rc<Meter>,
    driver: JoinHandle<Result<(), Error>>,
}

fn serve() -> Served {
    let (near, far) = tokio::io::duplex(64 << 10);
    let client: bootstrap::Client = capnp_rpc::new_client(Server);
    let mut meter = None;
    let line =
        Line::metered(far, AnyClient::new(client.into_client_hook()), |read| meter.insert(Meter::of_one(read)).clone());
    Served { near, meter: meter.unwrap(), driver: tokio::task::spawn_local(line.drive()) }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// A message as it is sent.
fn message(fill: impl FnOnce(message::Builder<'_>)) -> Vec<u8> {
    let mut built = capnp::message::Builder::new_default();
    fill(built.init_root());
    capnp::serialize::write_message_to_words(&built)
}

fn first() -> Vec<u8> {
    message(|root| root.init_bootstrap().set_question_id(0))
}

/// A call on the answer to another one, with so many bytes.
fn call_on(answer: u32, number: u32, method: u16, len: u32, fill: impl FnOnce(call::Builder<'_>)) -> Vec<u8> {
    message(|root| {
        let mut call = root.init_call();
        call.set_question_id(number);
        call.set_interface_id(<bootstrap::Client as HasTypeId>::TYPE_ID);
        call.set_method_id(method);
        call.reborrow().init_target().init_promised_answer().set_question_id(answer);
        call.reborrow().get_params().unwrap().get_content().initn_as::<capnp::data::Builder<'_>>(len);
        fill(call);
    })
}

/// Writes, as long as the other side reads. Whether it took everything.
async fn write(stream: &mut WriteHalf<DuplexStream>, bytes: &[u8]) -> bool {
    let mut writing = pin!(stream.write_all(bytes));
    // There is no thread but this one: who does nothing in so many turns waits.
    for _ in 0..10_000 {
        if let Some(done) = (&mut writing).now_or_never() {
            return done.is_ok();
        }
        yield_now().await;
    }
    false
}

/// Reads whatever comes, and throws it away.
fn drain(mut stream: ReadHalf<DuplexStream>) {
    tokio::task::spawn_local(async move {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(1..) = stream.read(&mut bytes).await {}
    });
}

/// How many bytes of such messages, one after the other, the server takes.
async fn taken(mut stream: WriteHalf<DuplexStream>, max: usize, mut make: impl FnMut(u32) -> Vec<u8>) -> usize {
    assert!(write(&mut stream, &first()).await);
    let (mut taken, mut number) = (0, 0);
    while taken < max {
        number += 1;
        let bytes = make(number);
        if !write(&mut stream, &bytes).await {
            break;
        }
        taken += bytes.len();
    }
    taken
}

const MEGABYTE: u32 = 1 << 20;

#[test]
fn calls_that_do_not_end_are_read_up_to_a_bound() {
    run(async {
        let served = serve();
        let (_read, write) = tokio::io::split(served.near);
        let len = taken(write, 4 * CALLS_LEN_MAX, |number| call_on(0, number, STATUS, MEGABYTE, |_| {})).await;
        assert!((CALLS_LEN_MAX..CALLS_LEN_MAX + (3 << 20)).contains(&len), "{} MiB were taken", len >> 20);
    });
}

#[test]
fn so_are_calls_on_answers_that_never_come() {
    run(async {
        let served = serve();
        let (_read, write) = tokio::io::split(served.near);
        let make = |number: u32| call_on(u32::from(number > 1), number, STATUS, MEGABYTE, |_| {});
        let len = taken(write, 4 * CALLS_LEN_MAX, make).await;
        assert!((CALLS_LEN_MAX..CALLS_LEN_MAX + (3 << 20)).contains(&len), "{} MiB were taken", len >> 20);
    });
}

#[test]
fn who_fetches_no_answers_is_not_listened_to() {
    run(async {
        let served = serve();
        let (_read, write) = tokio::io::split(served.near);
        // Nobody understands these, so all of it is sent back.
        let nonsense = message(|root| {
            let _ = root.init_provide().init_recipient().initn_as::<capnp::data::Builder<'_>>(MEGABYTE);
        });
        let len = taken(write, 2 * UNSENT_LEN_MAX, |_| nonsense.clone()).await;
        assert!((UNSENT_LEN_MAX..UNSENT_LEN_MAX + (3 << 20)).contains(&len), "{} MiB were taken", len >> 20);
    });
}

/// The other side is done with a call, and with what it was given.
fn done(number: u32) -> Vec<u8> {
    message(|root| {
        let mut finish = root.init_finish();
        finish.set_question_id(number);
        finish.set_release_result_caps(true);
    })
}

/// Whether the connection ends of it.
async fn ends(make: impl Fn(u32) -> Vec<u8>, count: usize) -> bool {
    let served = serve();
    let (read, mut stream) = tokio::io::split(served.near);
    drain(read);
    let mut is_open = write(&mut stream, &first()).await;
    for number in (1..=count).map_while(|number| u32::try_from(number).ok()) {
        is_open = is_open && write(&mut stream, &make(number)).await;
    }
    for _ in 0..1000 {
        yield_now().await;
    }
    served.driver.is_finished()
}

#[test]
fn what_nobody_sends_who_means_well_ends_the_connection() {
    run(async {
        let fails = |number| call_on(0, number, JOIN, 8, |_| {});
        assert!(!ends(fails, ANSWERS_MAX - 1).await);
        assert!(ends(fails, ANSWERS_MAX).await, "calls that are never done with");
        assert!(!ends(|number| [fails(number), done(number)].concat(), ANSWERS_MAX + 10).await);
        let keeps = |number| call_on(0, number, LOGIN, 8, |_| {});
        assert!(ends(keeps, CAPS_MAX as usize + 10).await, "capabilities that are kept");
        let gives_back = |number| [keeps(number), done(number)].concat();
        assert!(!ends(gives_back, CAPS_MAX as usize + 10).await);
        let many_caps = |count| {
            move |number| {
                call_on(0, number, HELLO, 8, |call| {
                    call.get_params().unwrap().init_cap_table(count);
                })
            }
        };
        assert!(!ends(many_caps(CAPS_PER_MESSAGE_MAX), 1).await);
        assert!(ends(many_caps(CAPS_PER_MESSAGE_MAX + 1), 1).await, "many capabilities");
        let kept = |number| call_on(0, number, HELLO, 8, |call| call.init_send_results_to().set_yourself(()));
        assert!(ends(kept, 1).await, "an answer that is to be kept here");
    });
}

#[test]
fn who_means_well_is_served_for_ever() {
    run(async {
        let served = serve();
        let mut line = Line::calling(served.near);
        let server: bootstrap::Client = line.bootstrap();
        tokio::task::spawn_local(line.drive());
        for _ in 0..ANSWERS_MAX {
            let answer = server.hello_request().send().promise.await.unwrap();
            assert_eq!(answer.get().unwrap().get_version(), 1);
            let answer = server.login_request().send().promise.await.unwrap();
            drop(answer.get().unwrap().get_login().unwrap());
            assert!(server.join_request().send().promise.await.is_err());
        }
        assert!(served.meter.caps.get() < 10, "{} capabilities are kept", served.meter.caps.get());
        assert!(served.meter.answers.borrow().len() < 10, "{} answers are kept", served.meter.answers.borrow().len());
        // The first answer, which is still used, and the last ones.
        assert!(served.meter.calls.len.get() < 10_000 && served.meter.unsent.len.get() == 0);
        for _ in 0..1000 {
            drop(server.status_request().send());
            server.hello_request().send().promise.await.unwrap();
        }
        println!("{} answers after 1000 that nobody waits for", served.meter.answers.borrow().len());
        assert!(served.meter.calls.len.get() < 10_000, "{} bytes of calls", served.meter.calls.len.get());
    });
}
