//! A machine that was away lists what it holds: what a collection removed meanwhile it is told to drop, and nothing else;
//! and what nobody knows is not listed again at each contact.

mod office;

use capnp::Error;
use office::{Office, Wire, run, soon, until};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use twinkeep_engine::copies::SetDigest;
use twinkeep_engine::id::{FrameId, Kind};
use twinkeep_nodes::terminal::order;
use twinkeep_nodes::tracker::MachineNumber;
use twinkeep_nodes::tracker::holders::NewFrame;
use twinkeep_nodes::tracker::sign::{AuthorityKey, SigningKey};
use twinkeep_nodes::transport::ids::join;
use twinkeep_schema::office_capnp::{copies, node_session};

/// What a machine holds, and what it was asked.
struct Store {
    held: RefCell<BTreeSet<FrameId>>,
    dropped: RefCell<BTreeSet<FrameId>>,
    lists: Cell<usize>,
    authority: AuthorityKey,
}

struct Server(Rc<Store>);

impl copies::Server for Server {
    async fn list(self: Rc<Self>, params: copies::ListParams, mut results: copies::ListResults) -> Result<(), Error> {
        let after = params.get()?.get_after()?.to_vec();
        let held = self.0.held.borrow();
        let page: Vec<FrameId> = held.iter().filter(|id| id.0[..] > after[..]).copied().take(3).collect();
        if after.is_empty() {
            self.0.lists.set(self.0.lists.get() + 1);
        }
        results.get().set_frames(&join(&page));
        Ok(())
    }

    async fn drop(self: Rc<Self>, params: copies::DropParams, mut results: copies::DropResults) -> Result<(), Error> {
        let frames = order::verify(&self.0.authority, params.get()?.get_order()?)?;
        for id in &frames {
            assert!(self.0.held.borrow_mut().remove(id), "it holds what it is to drop");
            self.0.dropped.borrow_mut().insert(*id);
        }
        results.get().set_dropped(frames.len() as u64);
        Ok(())
    }
}

/// It comes, and says what it holds.
async fn come(office: &Office, machine: &SigningKey, store: &Rc<Store>, start: u8) -> (Wire, node_session::Client) {
    let wire = office.dial(machine).await;
    let mut request = wire.bootstrap.node_request();
    let mut told = request.get().init_registration();
    told.set_run(&[start; 16]);
    told.set_machine_id(&[7; 16]);
    told.set_granted(1 << 30);
    told.set_free(1 << 30);
    let mut inventory = told.init_inventory();
    let held = store.held.borrow().clone();
    inventory.set_frames(held.len() as u64);
    inventory.set_digest(&held.iter().collect::<SetDigest>().0);
    request.get().set_copies(capnp_rpc::new_client(Server(store.clone())));
    let answer = soon(request.send().promise).await.unwrap();
    let session = answer.get().unwrap().get_session().unwrap();
    (wire, session)
}

async fn compared(office: &Office, wire: &Wire) {
    let key = wire.key;
    until("what it holds is compared", async || {
        office.host.online.lock().unwrap().live(&key).is_some_and(|live| live.is_compared)
    })
    .await;
}

async fn left(office: &Office, wire: Wire) {
    let key = wire.key;
    drop(wire);
    until("it is gone", async || office.host.online.lock().unwrap().live(&key).is_none()).await;
}

#[test]
fn what_was_removed_meanwhile_is_dropped_and_what_nobody_knows_stays() {
    run(|| async {
        let office = Office::start().await;
        let machine = office.machine("pc", 1, false);
        let number = MachineNumber(1);
        let account = office.account("anna", 2, false);
        let id = |n: u8| FrameId(*blake3::hash(&[n]).as_bytes());
        let frame = |n: u8| NewFrame {
            id: id(n),
            number_in_index: n.into(),
            kind: Kind::Leaf,
            len: 100,
            writer: None,
            spread: false,
        };
        let frames: Vec<NewFrame> = (0..10).map(frame).collect();
        office.host.holders.enter(account.vault, &frames, 10).unwrap();
        let ids: Vec<FrameId> = frames.iter().map(|frame| frame.id).collect();
        // It was given up for lost before the collection: nobody knew that it held anything.
        office.host.holders.remove_frames(&ids[..4]).unwrap();
        let unknown: BTreeSet<FrameId> = (100..107).map(id).collect();
        let store = Rc::new(Store {
            held: RefCell::new(ids.iter().copied().chain(unknown.iter().copied()).collect()),
            dropped: RefCell::default(),
            lists: Cell::new(0),
            authority: office.host.identity.authority.authority(),
        });

        let (wire, session) = come(&office, &machine, &store, 1).await;
        compared(&office, &wire).await;
        assert_eq!(*store.dropped.borrow(), ids[..4].iter().copied().collect());
        assert_eq!(office.host.holders.inventory(number).unwrap().frames, 6);
        assert_eq!(store.held.borrow().len(), 6 + unknown.len(), "what the host may have lost stays");
        assert_eq!(store.lists.get(), 1);
        drop(session);
        left(&office, wire).await;

        let (wire, session) = come(&office, &machine, &store, 2).await;
        compared(&office, &wire).await;
        assert_eq!(store.lists.get(), 1, "nothing has changed");
        drop(session);
        left(&office, wire).await;

        // One of those that nobody knew is known after all, as when the host finds what it had lost.
        office.host.holders.enter(account.vault, &[NewFrame { writer: Some(number), ..frame(103) }], 11).unwrap();
        let (wire, _session) = come(&office, &machine, &store, 3).await;
        compared(&office, &wire).await;
        assert_eq!((store.lists.get(), office.host.holders.inventory(number).unwrap().frames), (2, 7));
        assert_eq!(store.dropped.borrow().len(), 4);
        drop(wire);
    });
}
