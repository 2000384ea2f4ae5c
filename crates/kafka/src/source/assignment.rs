//! Who reads what: the consumer protocol that travels inside JoinGroup and SyncGroup, and the range assignment, both as
//! Java's clients have them, so that members of either kind share a group.

use std::collections::BTreeMap;

use crate::source::wire::Partitions;

/// The oldest version of both encodings; every reader understands it, and newer ones only append to it.
const VERSION: i16 = 0;

/// Encodes what a member wants to read.
pub(crate) fn encode_subscription(topics: &[String]) -> Vec<u8> {
    let mut out = VERSION.to_be_bytes().to_vec();
    put_length(topics.len(), &mut out);
    for topic in topics {
        put_string(topic, &mut out);
    }
    put_no_user_data(&mut out);
    out
}

/// The topics that a member wants to read; `None` if its bytes say nothing that is understood.
pub(crate) fn decode_subscription(bytes: &[u8]) -> Option<Vec<String>> {
    let mut input = Input(bytes);
    input.short()?; // version
    let count = input.length()?;
    (0..count).map(|_| input.string()).collect()
}

/// Encodes what a member is to read.
pub(crate) fn encode_assignment(assigned: &Partitions) -> Vec<u8> {
    let mut out = VERSION.to_be_bytes().to_vec();
    put_length(assigned.len(), &mut out);
    for (topic, partitions) in assigned {
        put_string(topic, &mut out);
        put_length(partitions.len(), &mut out);
        for partition in partitions {
            out.extend_from_slice(&partition.to_be_bytes());
        }
    }
    put_no_user_data(&mut out);
    out
}

/// What a member is to read; `None` if the leader's bytes say nothing that is understood. No bytes are no partitions.
pub(crate) fn decode_assignment(bytes: &[u8]) -> Option<Partitions> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut input = Input(bytes);
    input.short()?; // version
    let count = input.length()?;
    let mut assigned = Vec::new();
    for _ in 0..count {
        let topic = input.string()?;
        let partitions = input.length()?;
        assigned.push((topic, (0..partitions).map(|_| input.int()).collect::<Option<_>>()?));
    }
    Some(assigned)
}

/// Distributes each topic's partitions over the members that want it: in the order of their ids, each a range, the first
/// ones a partition more where it does not divide.
pub(crate) fn range(
    members: &BTreeMap<String, Vec<String>>,
    partitions_of: impl Fn(&str) -> Vec<i32>,
) -> BTreeMap<String, Partitions> {
    let mut assigned: BTreeMap<String, Partitions> =
        members.keys().map(|id| (id.clone(), Vec::new())).collect();
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, topics) in members {
        for topic in topics {
            let who = wanted.entry(topic).or_default();
            if who.last() != Some(&id.as_str()) {
                who.push(id);
            }
        }
    }
    for (topic, who) in wanted {
        let partitions = partitions_of(topic);
        let (each, extra) = (partitions.len() / who.len(), partitions.len() % who.len());
        let mut rest = partitions.as_slice();
        for (index, id) in who.into_iter().enumerate() {
            let (mine, others) = rest.split_at(each + usize::from(index < extra));
            rest = others;
            if let Some(all) = assigned.get_mut(id).filter(|_| !mine.is_empty()) {
                all.push((topic.to_owned(), mine.to_vec()));
            }
        }
    }
    assigned
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(length as i32).to_be_bytes());
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as i16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_no_user_data(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}

/// Bytes of another client, of which none is trusted.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// The length of an array, of which every item takes a byte at least.
    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.int()?).ok().filter(|length| *length <= self.0.len())
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.short()?).ok()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_javas_consumer_protocol() {
        let topics = ["ab".to_owned()];
        let subscription = [0, 0, 0, 0, 0, 1, 0, 2, b'a', b'b', 255, 255, 255, 255];
        assert_eq!(encode_subscription(&topics), subscription);
        assert_eq!(decode_subscription(&subscription).unwrap(), topics);
        // Version 3, as Java's clients of today write it, appends to it.
        let newer = [&[0, 3], &subscription[2..], &[0, 0, 0, 0], &[255, 255, 255, 255], &[255, 255]].concat();
        assert_eq!(decode_subscription(&newer).unwrap(), topics);
        let assigned = vec![("ab".to_owned(), vec![7])];
        let bytes = [0, 0, 0, 0, 0, 1, 0, 2, b'a', b'b', 0, 0, 0, 1, 0, 0, 0, 7, 255, 255, 255, 255];
        assert_eq!(encode_assignment(&assigned), bytes);
        assert_eq!(decode_assignment(&bytes), Some(assigned));
        assert_eq!(decode_assignment(&[]), Some(Vec::new()));
    }

    #[test]
    fn ranges_are_those_that_javas_range_assignor_gives() {
        let wants = |topics: &[&str]| topics.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let members = BTreeMap::from([
            ("c".to_owned(), wants(&["t"])),
            ("a".to_owned(), wants(&["t", "u"])),
            ("b".to_owned(), wants(&["u", "t", "missing"])),
        ]);
        let partitions = |topic: &str| match topic {
            "t" => (0..7).collect(),
            "u" => vec![0],
            _ => Vec::new(),
        };
        let assigned = range(&members, partitions);
        assert_eq!(assigned["a"], [("t".to_owned(), vec![0, 1, 2]), ("u".to_owned(), vec![0])]);
        assert_eq!(assigned["b"], [("t".to_owned(), vec![3, 4])]);
        assert_eq!(assigned["c"], [("t".to_owned(), vec![5, 6])]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_bytes_of_another_member_make_the_leader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_subscription(&bytes);
            let _ = decode_assignment(&bytes);
        }

        #[test]
        fn every_partition_is_read_by_exactly_one_member(members in 1_usize..9, partitions in 0_i32..40) {
            let topics = vec!["t".to_owned()];
            let members = (0..members).map(|id| (id.to_string(), topics.clone())).collect();
            let assigned = range(&members, |_| (0..partitions).collect());
            let mut all: Vec<i32> =
                assigned.into_values().flatten().flat_map(|(_, partitions)| partitions).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..partitions).collect::<Vec<_>>());
        }
    }
}
