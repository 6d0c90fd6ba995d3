//! Snapshots are read from bytes that may be anything: never a panic, and what is read is written as it was.

use brant_record::layout::{self, File, TABLE_COUNT, TABLES};
use brant_record::{Address, Display, Malformed, Outside, Record, Snapshot, SocketState, What};
use proptest::prelude::*;

/// Builds the encoding by hand, after the description in `snapshot`.
fn encoded(tables: &[Vec<(u32, Vec<u8>)>; TABLE_COUNT], torn: u64) -> Vec<u8> {
    let mut out = b"BRANTREC".to_vec();
    out.extend(1u32.to_le_bytes());
    out.extend((TABLE_COUNT as u32).to_le_bytes());
    out.extend(torn.to_le_bytes());
    for (entries, table) in tables.iter().zip(&TABLES) {
        out.extend((table.entry_bytes as u32).to_le_bytes());
        out.extend((entries.len() as u32).to_le_bytes());
        for (index, bytes) in entries {
            out.extend(index.to_le_bytes());
            out.extend(bytes);
        }
    }
    out
}

fn empty() -> [Vec<(u32, Vec<u8>)>; TABLE_COUNT] {
    let mut tables = [const { Vec::new() }; TABLE_COUNT];
    tables[layout::SUMMARY].push((0, vec![0; TABLES[layout::SUMMARY].entry_bytes]));
    tables
}

/// Tables with entries of any bytes at places that a wrapper could use.
fn tables() -> impl Strategy<Value = [Vec<(u32, Vec<u8>)>; TABLE_COUNT]> {
    let entries = |table: usize| {
        let layout::Table { entry_bytes, capacity, .. } = TABLES[table];
        let places = proptest::collection::btree_set(0..capacity as u32, 0..5.min(capacity + 1));
        (places, any::<u64>()).prop_map(move |(places, seed)| {
            let byte = |index: u32, at: usize| {
                let mixed =
                    (seed ^ u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(at as u64);
                (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as u8
            };
            places
                .into_iter()
                .map(|index| (index, (0..entry_bytes).map(|at| byte(index, at)).collect()))
                .collect()
        })
    };
    let all: Vec<_> = (0..TABLE_COUNT).map(|table| entries(table).boxed()).collect();
    all.prop_map(|all: Vec<Vec<(u32, Vec<u8>)>>| {
        let mut tables = empty();
        for (table, entries) in all.into_iter().enumerate().skip(1) {
            tables[table] = entries;
        }
        tables
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_read_is_written_as_it_was(tables in tables(), torn in any::<u64>()) {
        let bytes = encoded(&tables, torn);
        let snapshot = Snapshot::decode(&bytes).unwrap();
        prop_assert_eq!(snapshot.encode(), bytes);
        let record = Record::of(&snapshot);
        let _ = Outside::default().compare(&record);
        for descriptor in record.descriptors.iter().chain(&record.closed) {
            let _ = (descriptor.display(), descriptor.graphics_device());
        }
        prop_assert_eq!(record.torn, torn);
    }

    #[test]
    fn damaged_bytes_give_errors(tables in tables(), at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&tables, 0);
        prop_assert!(Snapshot::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(snapshot) = Snapshot::decode(&bytes) {
            let _ = Record::of(&snapshot);
            prop_assert_eq!(snapshot.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Snapshot::decode(&bytes).is_err());
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let bytes = encoded(&empty(), 0);
    assert!(Snapshot::decode(&bytes).is_ok());
    assert_eq!(Snapshot::decode(b"hello").unwrap_err(), Malformed::NotARecord);
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(Snapshot::decode(&newer).unwrap_err(), Malformed::Version(2));
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(Snapshot::decode(&longer).unwrap_err(), Malformed::Damaged(_)));
    let mut tables = empty();
    tables[layout::SUMMARY].clear();
    assert!(matches!(Snapshot::decode(&encoded(&tables, 0)).unwrap_err(), Malformed::Damaged(_)));
    // More entries than a table has, said by a number alone: no memory is taken for them.
    let mut many = bytes;
    let at = 24 + 8 + 4 + TABLES[layout::SUMMARY].entry_bytes + 4;
    many[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Snapshot::decode(&many).unwrap_err(), Malformed::Damaged(_)));
}

/// A connected socket to this peer.
fn socket(family: i32, peer: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; File::BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &2u32.to_le_bytes());
    put(core::mem::offset_of!(File, kind), &[layout::kind::SOCKET]);
    put(core::mem::offset_of!(File, state), &[layout::state::CONNECTED]);
    put(core::mem::offset_of!(File, family), &family.to_le_bytes());
    put(core::mem::offset_of!(File, peer_bytes), &(peer.len() as u16).to_le_bytes());
    put(core::mem::offset_of!(File, text) + layout::PEER_AT, peer);
    bytes
}

#[test]
fn displays_are_told_by_their_addresses() {
    let unix = |path: &[u8]| [&1u16.to_le_bytes()[..], path].concat();
    let inet = |port: u16| [&2u16.to_le_bytes()[..], &port.to_be_bytes(), &[127, 0, 0, 1], &[0; 8]].concat();
    let cases: [(i32, Vec<u8>, Option<Display>); 8] = [
        (1, unix(b"/tmp/.X11-unix/X77\0"), Some(Display::X11(77))),
        (1, unix(b"\0/tmp/.X11-unix/X0"), Some(Display::X11(0))),
        (1, unix(b"/tmp/.X11-unix/Xerxes\0"), None),
        (1, unix(b"/run/user/7/wayland-1\0"), Some(Display::Wayland(b"wayland-1".to_vec()))),
        (1, unix(b"/run/wayland-1/other\0"), None),
        (2, inet(6077), Some(Display::X11(77))),
        (2, inet(6100), None),
        (2, inet(80), None),
    ];
    for (family, peer, display) in cases {
        let mut tables = empty();
        tables[layout::FILES].push((3, socket(family, &peer)));
        let record = Record::of(&Snapshot::decode(&encoded(&tables, 0)).unwrap());
        assert_eq!(record.descriptors[0].display(), display, "{peer:?}");
        let What::Socket { state, peer, .. } = &record.descriptors[0].what else { panic!("{record:?}") };
        assert_eq!(*state, SocketState::Connected);
        assert_ne!(*peer, Address::None);
    }
}
