//! What a backup that ended early leaves on the PC it ran on: it goes when the host has not known it for long, and what the
//! host knows, or comes to know, never does.

mod office;

use office::{Mill, Office, begin, open, put, run, soon};
use std::sync::Arc;
use twinkeep_engine::copies::CopyStore;
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::frame::SealedFrame;
use twinkeep_engine::id::FrameId;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_nodes::terminal::copies::{CopiesServer, Kept, KeptHere};
use twinkeep_nodes::terminal::unknown::{ASKED_MAX, Unknown};
use twinkeep_nodes::terminal::upkeep::ask_unknown;
use twinkeep_nodes::tracker::MachineNumber;
use twinkeep_nodes::tracker::event::Event;
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::transport::upload::FrameTarget;
use twinkeep_nodes::work::Work;
use twinkeep_schema::office_capnp::{copies, node_session};

/// A terminal's store, and its session at the host.
async fn there(office: &Office, wire: &office::Wire) -> (Arc<Kept>, node_session::Client) {
    let (files, kv) = (Arc::new(MemoryFiles::new()), Arc::new(MemoryKvHome::default()));
    let opened = CopyStore::open(files, kv, office.env.clone(), "test").unwrap();
    let kept = Kept::new(opened.store, 1 << 30);
    let server = CopiesServer::new(kept.clone(), office.host.office.authority(), Work::Threads);
    let copies: copies::Client = capnp_rpc::new_client(server);
    let mut request = wire.bootstrap.node_request();
    let mut told = request.get().init_registration();
    told.set_run(&[7; 16]);
    told.set_machine_id(&[7; 16]);
    told.set_granted(1 << 30);
    told.set_free(1 << 30);
    kept.tell(told.init_inventory()).unwrap();
    request.get().set_copies(copies);
    let answer = soon(request.send().promise).await.unwrap();
    (kept, answer.get().unwrap().get_session().unwrap())
}

fn has(kept: &Kept, frame: &SealedFrame) -> bool {
    kept.store.has(&[frame.id]).unwrap()[0]
}

#[test]
fn what_the_host_never_knows_goes_and_nothing_else() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let (kept, session) = there(&office, &wire).await;
        let user = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        let vault = open(&user, anna.vault).await.unwrap();
        let (write, id) = begin(&vault).await.unwrap();
        let mut mill = Mill::new(&office.env, &anna, anna.vault, id);
        let (known, junk, late) = (mill.leaf(b"known").1, mill.leaf(b"junk").1, mill.leaf(b"late").1);
        // One that the host sent: it may have lost it since.
        let sent = mill.leaf(b"sent by the host").1;
        kept.take(sent.bytes.clone()).unwrap();
        let here = KeptHere(kept.clone());
        for frame in [&known, &junk, &late] {
            here.take(frame.bytes.clone()).unwrap();
        }
        kept.settle().unwrap();
        put(&write, std::slice::from_ref(&known.bytes)).await.unwrap();
        soon(write.checkpoint_request().send().promise).await.unwrap();
        let ask = async || ask_unknown(&kept, &session, Work::Threads).await;
        let ids = || kept.unknown().ids();
        let mut expected = [junk.id, late.id];
        expected.sort();
        for _ in 0..ASKED_MAX - 1 {
            assert_eq!(ask().await.unwrap(), 0);
            assert_eq!(ids(), expected);
        }
        assert_eq!(office.host.holders.inventory(MachineNumber(1)).unwrap().frames, 1, "the host knows of one");
        // It was on its way all the time, and arrives.
        put(&write, std::slice::from_ref(&late.bytes)).await.unwrap();
        soon(write.checkpoint_request().send().promise).await.unwrap();
        // A start of the service in between.
        let bytes = kept.unknown().take_changed().unwrap();
        *kept.unknown() = Unknown::read(&bytes);
        let before = kept.store.inventory().unwrap();
        assert_eq!(ask().await.unwrap(), 1);
        assert_eq!(ids(), Vec::<FrameId>::new());
        assert!(has(&kept, &known) && has(&kept, &late) && has(&kept, &sent) && !has(&kept, &junk));
        let after = kept.store.inventory().unwrap();
        assert_eq!(after.bytes, before.bytes - junk.bytes.len() as u64, "it takes nothing of the grant any more");
        assert_eq!(after.trash_bytes, junk.bytes.len() as u64, "and lies there for thirty days more");
        // What is not held any more is not asked for: the host would count it.
        let lost = mill.leaf(b"lost").1;
        here.take(lost.bytes).unwrap();
        kept.settle().unwrap();
        kept.store.drop_frames(&ids()).unwrap();
        assert_eq!((ask().await.unwrap(), ids().len()), (0, 0));
        // A host that does not answer has not said anything.
        here.take(mill.leaf(b"more").1.bytes).unwrap();
        kept.settle().unwrap();
        let revoked = Event::NodeRevoked { key: wire.key };
        office.host.office.append(Actor::Host, revoked).unwrap();
        for _ in 0..2 * ASKED_MAX {
            assert!(ask().await.is_err());
        }
        assert_eq!(ids().len(), 1);
    });
}
