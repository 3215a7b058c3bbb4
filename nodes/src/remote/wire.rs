//! Values of the engine as they stand in calls.

use crate::transport::ids;
use crate::transport::problem::{Problem, Why, problem};
use twinkeep_engine::env::Time;
use twinkeep_engine::id::{FrameId, Kind};
use twinkeep_engine::index::{FrameNumber, PackNumber};
use twinkeep_engine::limits::FRAME_LEN_MAX;
use twinkeep_engine::store::{ChainLink, Place};
use twinkeep_schema::office_capnp::{link, place};

/// Writes a place.
pub fn put_place(place: &Place, mut to: place::Builder<'_>) {
    to.set_number(place.number.0);
    to.set_frame(&place.frame.0);
    to.set_pack(place.pack.0);
    to.set_len(place.len);
    to.set_offset(place.offset);
    to.set_kind(place.kind as u8);
    to.set_position(place.position);
    to.set_is_believed(place.is_believed);
}

/// Reads a place; none where its length is 0.
pub fn get_place(from: place::Reader<'_>) -> std::result::Result<Option<Place>, Problem> {
    if from.get_len() == 0 {
        return Ok(None);
    }
    let len = from.get_len();
    let kind = Kind::from_byte(from.get_kind()).filter(|_| len as usize <= FRAME_LEN_MAX);
    Ok(Some(Place {
        number: FrameNumber(from.get_number()),
        frame: ids::one::<FrameId>(from.get_frame()?)?,
        pack: PackNumber(from.get_pack()),
        offset: from.get_offset(),
        len,
        kind: kind.ok_or_else(|| problem(Why::Usage, "that is no place of a frame"))?,
        position: from.get_position(),
        is_believed: from.get_is_believed(),
    }))
}

/// Writes a link.
pub fn put_link(link: &ChainLink, received: Time, mut to: link::Builder<'_>) {
    to.set_count(link.count);
    to.set_previous(&link.previous);
    to.set_received(received.0);
}

/// Reads a link.
pub fn get_link(from: link::Reader<'_>) -> std::result::Result<ChainLink, Problem> {
    let previous = ids::fixed(from.get_previous()?, "the hash of a record")?;
    Ok(ChainLink { count: from.get_count(), previous, received: Some(Time(from.get_received())) })
}

/// Writes texts into a list as long as they are many.
pub fn put_texts(texts: &[String], mut list: capnp::text_list::Builder<'_>) {
    (0..).zip(texts).for_each(|(at, text)| list.set(at, &text[..]));
}

/// Reads texts.
pub fn get_texts(list: capnp::text_list::Reader<'_>) -> std::result::Result<Vec<String>, capnp::Error> {
    list.iter().map(|text| Ok(text?.to_string()?)).collect()
}
