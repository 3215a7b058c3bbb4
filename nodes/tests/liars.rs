//! Machines that say they hold what they do not: they are found out, and what they said is owed again.

mod office;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use capnp::Error;
use office::{Account, Mill, Office, Wire, begin, open, put, run, soon, until};
use twinkeep_engine::id::FrameId;
use twinkeep_nodes::host::prover;
use twinkeep_nodes::tracker::MachineNumber;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::tracker::standing::Fault;
use twinkeep_nodes::transport::ids::{join, split};
use twinkeep_schema::office_capnp::{copies, node_session, upload};

/// What a machine is like.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// It has every byte it was given.
    Honest,
    /// It keeps the beginning of each frame.
    KeepsHalf,
    /// It answers with the proof of another frame.
    Guesses,
    /// It does not answer.
    Refuses,
    /// It takes nothing.
    IsFull,
}

/// A store of copies of such a machine.
struct Store {
    manner: Manner,
    frames: Rc<RefCell<BTreeMap<FrameId, Vec<u8>>>>,
    untold: Rc<RefCell<Vec<FrameId>>>,
    proofs: Rc<Cell<usize>>,
    puts: Rc<Cell<usize>>,
}

struct Upload {
    manner: Manner,
    puts: Rc<Cell<usize>>,
    frames: Rc<RefCell<BTreeMap<FrameId, Vec<u8>>>>,
    untold: Rc<RefCell<Vec<FrameId>>>,
}

impl upload::Server for Upload {
    async fn put(self: Rc<Self>, params: upload::PutParams) -> Result<(), Error> {
        let bytes = params.get()?.get_frame()?.to_vec();
        let id = twinkeep_engine::frame::frame_id(&bytes);
        self.puts.set(self.puts.get() + 1);
        if self.manner == Manner::IsFull {
            return Ok(());
        }
        self.untold.borrow_mut().push(id);
        self.frames.borrow_mut().insert(id, bytes);
        Ok(())
    }

    async fn done(self: Rc<Self>, _: upload::DoneParams, mut results: upload::DoneResults) -> Result<(), Error> {
        if self.manner == Manner::IsFull {
            results.get().set_problem("twinkeep/no-space: there is no room, whatever was said");
        }
        Ok(())
    }
}

impl copies::Server for Store {
    async fn upload(self: Rc<Self>, _: copies::UploadParams, mut results: copies::UploadResults) -> Result<(), Error> {
        let upload = Upload {
            manner: self.manner,
            puts: self.puts.clone(),
            frames: self.frames.clone(),
            untold: self.untold.clone(),
        };
        results.get().set_upload(capnp_rpc::new_client(upload));
        Ok(())
    }

    async fn settle(self: Rc<Self>, _: copies::SettleParams, mut results: copies::SettleResults) -> Result<(), Error> {
        results.get().set_frames(&join(&self.untold.take()));
        Ok(())
    }

    async fn has(self: Rc<Self>, params: copies::HasParams, mut results: copies::HasResults) -> Result<(), Error> {
        let frames = split::<FrameId>(params.get()?.get_frames()?)?;
        let has = u8::from(self.manner != Manner::IsFull);
        results.get().set_answers(&vec![has; frames.len()]);
        Ok(())
    }

    async fn list(self: Rc<Self>, _: copies::ListParams, mut results: copies::ListResults) -> Result<(), Error> {
        results.get().set_frames(&[]);
        Ok(())
    }

    async fn prove(
        self: Rc<Self>,
        params: copies::ProveParams,
        mut results: copies::ProveResults,
    ) -> Result<(), Error> {
        self.proofs.set(self.proofs.get() + 1);
        let params = params.get()?;
        let wanted = FrameId::from_slice(params.get_frame()?).unwrap();
        let frames = self.frames.borrow();
        let nonce: [u8; 32] = params.get_nonce()?.try_into().unwrap();
        let (offset, len) = (params.get_offset() as usize, params.get_len() as usize);
        let bytes = match self.manner {
            Manner::Honest => frames[&wanted].clone(),
            Manner::KeepsHalf => {
                let whole = &frames[&wanted];
                let mut half = whole[..whole.len() / 2].to_vec();
                half.resize(whole.len(), 0);
                half
            }
            Manner::Guesses => vec![0; offset + len],
            Manner::Refuses | Manner::IsFull => return Err(Error::failed("not now".into())),
        };
        results.get().set_proof(blake3::keyed_hash(&nonce, &bytes[offset..offset + len]).as_bytes());
        Ok(())
    }
}

/// A machine that grants so much is there.
async fn come(wire: &Wire, store: Store, granted: u64) -> node_session::Client {
    let mut request = wire.bootstrap.node_request();
    let mut told = request.get().init_registration();
    told.set_run(&[7; 16]);
    told.set_machine_id(&[7; 16]);
    told.set_granted(granted);
    told.set_free(granted);
    told.init_inventory().set_digest(&[0; 32]);
    request.get().set_copies(capnp_rpc::new_client(store));
    let answer = soon(request.send().promise).await.unwrap();
    answer.get().unwrap().get_session().unwrap()
}

/// Puts three frames into an account's vault.
async fn back_up(office: &Office, machine: &SigningKey, account: &Account) -> Vec<Vec<u8>> {
    let other = office.dial(machine).await;
    let user = office.login(&other.bootstrap, other.key, account).await.unwrap();
    let vault = open(&user, account.vault).await.unwrap();
    let (write, session) = begin(&vault).await.unwrap();
    let mut mill = Mill::new(&office.env, account, account.vault, session);
    let frames: Vec<Vec<u8>> = (0..3_u8).map(|at| mill.leaf(&noise(at)).1.bytes).collect();
    put(&write, &frames).await.unwrap();
    soon(write.checkpoint_request().send().promise).await.unwrap();
    frames
}

/// A store of copies of a machine of this manner.
fn store(manner: Manner) -> Store {
    let (frames, untold, proofs, puts) = Default::default();
    Store { manner, frames, untold, proofs, puts }
}

/// One with much more room than another that is honest. Who gets what is backed up on a third?
async fn others_get_it(manner: Manner) {
    let office = Office::start().await;
    let (bad, good, third) =
        (office.machine("bad", 1, false), office.machine("good", 2, false), office.machine("third", 3, false));
    let account = office.account("anna", 4, false);
    let (bad, good) = (office.dial(&bad).await, office.dial(&good).await);
    let bad_store = store(manner);
    let (puts, held) = (bad_store.puts.clone(), store(Manner::Honest));
    let honest = held.frames.clone();
    let _there = (come(&bad, bad_store, 1 << 50).await, come(&good, held, 1 << 30).await);
    let frames = back_up(&office, &third, &account).await;
    let mut turns = BTreeMap::new();
    until("others have got it", async || {
        prover::ask(&office.host, &mut turns).unwrap();
        honest.borrow().len() == frames.len()
    })
    .await;
    println!("{} frames were sent to the bad one", puts.get());
    let standing = office.host.copier.standing(MachineNumber(1)).expect("it is remembered");
    assert!(standing.until > office.env.clock.elapsed(), "{standing:?}");
    // For all to see.
    let local = office.local().await;
    let answer = soon(local.admin_request().send().promise).await.unwrap();
    let answer = soon(answer.get().unwrap().get_admin().unwrap().nodes_request().send().promise).await.unwrap();
    let nodes = answer.get().unwrap().get_nodes().unwrap();
    let (bad, good) = (nodes.get(0), nodes.get(1));
    let note = bad.get_note().unwrap().to_string().unwrap();
    assert!(bad.get_failures() > 0 && bad.get_rests_until() > 0 && note.contains("it rests"), "{note}");
    assert_eq!((good.get_failures(), good.get_rests_until(), good.get_note().unwrap().len()), (0, 0, 0));
}

/// Lets a machine of this manner get the copies of a small vault, and asks it for them.
async fn check(manner: Manner) {
    let office = Office::start().await;
    let machine = office.machine("pc", 1, false);
    let account = office.account("anna", 2, false);
    let wire = office.dial(&machine).await;
    let (proofs, puts) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (frames, untold) = Default::default();
    let store = Store { manner, frames, untold, proofs: proofs.clone(), puts: puts.clone() };
    let _session = come(&wire, store, 1 << 30).await;
    let frames = back_up(&office, &machine, &account).await;

    let number = MachineNumber(1);
    let holders = &office.host.holders;
    let count = frames.len() as u64;
    until("the machine has the copies", async || holders.inventory(number).unwrap().frames == count).await;
    let mut turns = BTreeMap::new();
    assert_eq!(prover::ask(&office.host, &mut turns).unwrap(), frames.len());
    until("it was asked for each", async || proofs.get() >= frames.len()).await;
    match manner {
        Manner::Honest => {
            // Once more through all of them, so that the answers to the first have been looked at.
            prover::ask(&office.host, &mut turns).unwrap();
            until("it was asked again", async || proofs.get() >= 2 * frames.len()).await;
            assert_eq!(holders.inventory(number).unwrap().frames, count);
            assert_eq!(holders.owed(None, 10).unwrap(), []);
        }
        Manner::KeepsHalf | Manner::Guesses | Manner::Refuses | Manner::IsFull => {
            let standing = || office.host.copier.standing(number);
            until("it is known that it lied", async || standing().is_some_and(|it| it.fault == Fault::Lied)).await;
            // Found out, it is given them again.
            until("it was found out", async || {
                prover::ask(&office.host, &mut turns).unwrap();
                puts.get() > frames.len()
            })
            .await;
        }
    }
}

/// Enough bytes that half of them is more than a header, and other ones each time.
fn noise(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; 400_000];
    twinkeep_engine::env::Dice(u64::from(seed) + 1).fill(&mut bytes);
    bytes
}

#[test]
fn an_honest_machine_is_believed() {
    run(|| check(Manner::Honest));
}

#[test]
fn one_that_lies_is_found_out() {
    for manner in [Manner::KeepsHalf, Manner::Guesses, Manner::Refuses] {
        run(|| check(manner));
    }
}

#[test]
fn who_takes_nothing_or_lies_gives_way_to_others() {
    for manner in [Manner::IsFull, Manner::KeepsHalf, Manner::Refuses] {
        run(|| others_get_it(manner));
    }
}
