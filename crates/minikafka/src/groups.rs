//! Consumer groups: who is in one, who reads what, and how far. The classic protocol of JoinGroup and SyncGroup.
//!
//! `now` comes in as a parameter; one task ([`Groups::run`]) sleeps until the next deadline.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::ErrorCode;
use crate::offsets::{Offsets, load, save};

/// Groups at the same time.
const MAX_GROUPS: usize = 1024;
/// Members of one group, with those that were given an id and have not come back yet.
const MAX_MEMBERS: usize = 256;
/// How long the first member of a group waits for others. Kafka's 3 s are too long for someone who tries things out.
const INITIAL_DELAY: Duration = Duration::from_millis(100);
/// The longest session and rebalance timeout, as in Kafka.
const MAX_TIMEOUT: Duration = Duration::from_mins(30);

/// A member's wish to join.
pub(crate) struct Join {
    pub(crate) group: String,
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: String,
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// The client can come back with an id that it was given (KIP-394).
    pub(crate) asks_twice: bool,
}

/// What a member that joined is told; an error is told with the member id that belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) leader: String,
    pub(crate) member: String,
    /// For the leader: everyone's id, instance and metadata.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

pub(crate) type JoinResult = Result<Joined, (ErrorCode, String)>;

/// What a member is to read.
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) assignment: Bytes,
}

pub(crate) type SyncResult = Result<Assigned, ErrorCode>;

/// A result that is there, or comes.
pub(crate) enum Soon<T> {
    Now(T),
    Later(oneshot::Receiver<T>),
}

/// A group, for those who look at it.
#[derive(Debug, Default)]
pub(crate) struct Description {
    pub(crate) state: &'static str,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) members: Vec<DescribedMember>,
}

#[derive(Debug)]
pub(crate) struct DescribedMember {
    pub(crate) id: String,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    /// Members (re)join: not before `earliest`, and those that have not come by `deadline` are out.
    Joining {
        earliest: Instant,
        deadline: Instant,
    },
    /// The leader works out who reads what.
    Syncing {
        deadline: Instant,
    },
    Stable,
}

#[derive(Debug)]
struct Member {
    instance: Option<String>,
    client_id: String,
    client_host: String,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    protocols: Vec<(String, Bytes)>,
    assignment: Bytes,
    last_seen: Instant,
    joining: Option<oneshot::Sender<JoinResult>>,
    syncing: Option<oneshot::Sender<SyncResult>>,
}

#[derive(Debug)]
struct Group {
    state: State,
    generation: i32,
    protocol_type: String,
    protocol: String,
    leader: String,
    members: BTreeMap<String, Member>,
    /// Ids that were given out and until when they may be used.
    promised: HashMap<String, Instant>,
    offsets: Offsets,
}

/// All groups.
pub(crate) struct Groups {
    by_name: Mutex<BTreeMap<String, Group>>,
    file: Option<PathBuf>,
    saving: Mutex<()>,
    next_member: std::sync::atomic::AtomicU64,
    started: u128,
    changed: Notify,
}

impl Groups {
    pub(crate) fn open(data_dir: Option<&Path>) -> io::Result<Self> {
        let file = data_dir.map(|dir| dir.join("group_offsets"));
        let mut groups = BTreeMap::new();
        if let Some(path) = &file {
            for (name, offsets) in load(path)? {
                groups.insert(name, Group { offsets, ..Group::new() });
            }
        }
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let started = epoch.elapsed().unwrap_or_default().as_micros();
        Ok(Self {
            by_name: Mutex::new(groups),
            file,
            saving: Mutex::default(),
            next_member: std::sync::atomic::AtomicU64::new(1),
            started,
            changed: Notify::new(),
        })
    }

    /// Lets time pass for the groups, until it is aborted.
    pub(crate) async fn run(cluster: Arc<crate::cluster::Cluster>) {
        let groups = &cluster.groups;
        loop {
            let changed = groups.changed.notified();
            match groups.pass_time(Instant::now()) {
                Some(next) => drop(tokio::time::timeout_at(next, changed).await),
                None => changed.await,
            }
        }
    }

    /// Does what is due, and says when something will be due next.
    fn pass_time(&self, now: Instant) -> Option<Instant> {
        let mut groups = self.by_name.lock();
        groups.values_mut().for_each(|group| group.pass_time(now));
        groups.values().filter_map(Group::next_deadline).min()
    }

    fn new_member_id(&self, client_id: &str) -> String {
        let number = self.next_member.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name: String = client_id.chars().take(64).collect();
        format!("{name}-{:x}-{number}", self.started)
    }

    pub(crate) fn join(&self, request: Join, now: Instant) -> Soon<JoinResult> {
        let result = self.try_join(request, now);
        self.changed.notify_one();
        result
    }

    fn try_join(&self, request: Join, now: Instant) -> Soon<JoinResult> {
        let refuse = |code: ErrorCode, member: &str| Soon::Now(Err((code, member.to_owned())));
        if request.group.is_empty() {
            return refuse(ErrorCode::INVALID_GROUP_ID, &request.member);
        }
        if request.session_timeout.is_zero() || request.session_timeout > MAX_TIMEOUT {
            return refuse(ErrorCode::INVALID_SESSION_TIMEOUT, &request.member);
        }
        if request.protocols.is_empty() || request.protocol_type.is_empty() {
            return refuse(ErrorCode::INCONSISTENT_GROUP_PROTOCOL, &request.member);
        }
        let mut groups = self.by_name.lock();
        if groups.len() >= MAX_GROUPS && !groups.contains_key(&request.group) {
            // Groups without members and offsets have nothing to lose.
            groups.retain(|_, group| !group.members.is_empty() || !group.offsets.is_empty());
            if groups.len() >= MAX_GROUPS {
                return refuse(ErrorCode::COORDINATOR_NOT_AVAILABLE, &request.member);
            }
        }
        let group = groups.entry(request.group.clone()).or_insert_with(Group::new);
        if !group.takes(&request) {
            return refuse(ErrorCode::INCONSISTENT_GROUP_PROTOCOL, &request.member);
        }
        let mut id = request.member.clone();
        if id.is_empty() {
            if group.members.len() + group.promised.len() >= MAX_MEMBERS {
                return refuse(ErrorCode::GROUP_MAX_SIZE_REACHED, "");
            }
            id = self.new_member_id(&request.client_id);
            if request.asks_twice && request.instance.is_none() {
                group.promised.insert(id.clone(), now + request.session_timeout);
                return refuse(ErrorCode::MEMBER_ID_REQUIRED, &id);
            }
            // A static member that starts again takes the place of its former self.
            let same = |member: &Member| member.instance.is_some() && member.instance == request.instance;
            group.members.retain(|_, member| !same(member));
        } else if !group.members.contains_key(&id) && group.promised.remove(&id).is_none() {
            return refuse(ErrorCode::UNKNOWN_MEMBER_ID, &id);
        }
        group.join(id, request, now)
    }

    pub(crate) fn sync(
        &self,
        group: &str,
        generation: i32,
        member: &str,
        assignments: Vec<(String, Bytes)>,
        now: Instant,
    ) -> Soon<SyncResult> {
        let result = self
            .with_member(group, generation, member, now, |group| Ok(group.sync(member, assignments, now)));
        self.changed.notify_one();
        result.unwrap_or_else(|code| Soon::Now(Err(code)))
    }

    pub(crate) fn heartbeat(
        &self,
        group: &str,
        generation: i32,
        member: &str,
        now: Instant,
    ) -> Result<(), ErrorCode> {
        self.with_member(group, generation, member, now, |group| match group.state {
            State::Joining { .. } => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            _ => Ok(()),
        })
    }

    fn with_member<T>(
        &self,
        group: &str,
        generation: i32,
        member: &str,
        now: Instant,
        work: impl FnOnce(&mut Group) -> Result<T, ErrorCode>,
    ) -> Result<T, ErrorCode> {
        let mut groups = self.by_name.lock();
        let group = groups.get_mut(group).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        let known = group.members.get_mut(member).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        known.last_seen = now;
        if generation != group.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        work(group)
    }

    /// A member leaves, named by its id or its instance.
    pub(crate) fn leave(
        &self,
        group: &str,
        member: &str,
        instance: Option<&str>,
        now: Instant,
    ) -> Result<(), ErrorCode> {
        let mut groups = self.by_name.lock();
        let group = groups.get_mut(group).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        let is = |id: &str, one: &Member| {
            if member.is_empty() {
                instance.is_some() && one.instance.as_deref() == instance
            } else {
                id == member
            }
        };
        let id = group.members.iter().find(|(id, one)| is(id, one)).map(|(id, _)| id.clone());
        let id = id.ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        group.remove(&id, now);
        self.changed.notify_one();
        Ok(())
    }

    pub(crate) fn list(&self) -> Vec<(String, String, &'static str)> {
        let groups = self.by_name.lock();
        groups
            .iter()
            .map(|(name, group)| (name.clone(), group.protocol_type.clone(), group.state_name()))
            .collect()
    }

    pub(crate) fn describe(&self, name: &str) -> Description {
        let groups = self.by_name.lock();
        let Some(group) = groups.get(name) else {
            return Description { state: "Dead", ..Description::default() };
        };
        let member = |(id, member): (&String, &Member)| DescribedMember {
            id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: member.metadata(&group.protocol),
            assignment: member.assignment.clone(),
        };
        Description {
            state: group.state_name(),
            protocol_type: group.protocol_type.clone(),
            protocol: group.protocol.clone(),
            members: group.members.iter().map(member).collect(),
        }
    }

    /// Whether a commit is allowed: by a member of this generation, or by someone outside while nobody is inside.
    pub(crate) fn check_commit(&self, group: &str, generation: i32, member: &str) -> Result<(), ErrorCode> {
        if group.is_empty() {
            return Err(ErrorCode::INVALID_GROUP_ID);
        }
        let mut groups = self.by_name.lock();
        if groups.len() >= MAX_GROUPS && !groups.contains_key(group) {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        let group = groups.entry(group.to_owned()).or_insert_with(Group::new);
        if generation < 0 {
            return if group.members.is_empty() { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) };
        }
        let known = group.members.get_mut(member).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        known.last_seen = Instant::now();
        if generation == group.generation { Ok(()) } else { Err(ErrorCode::ILLEGAL_GENERATION) }
    }

    pub(crate) fn with_offsets<T>(&self, group: &str, work: impl FnOnce(&mut Offsets) -> T) -> Option<T> {
        self.by_name.lock().get_mut(group).map(|group| work(&mut group.offsets))
    }

    /// Writes all offsets to the data directory, if there is one.
    pub(crate) fn save(&self) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let _saving = self.saving.lock();
        let all = {
            let groups = self.by_name.lock();
            let with_offsets = groups.iter().filter(|(_, group)| !group.offsets.is_empty());
            with_offsets.map(|(name, group)| (name.clone(), group.offsets.clone())).collect()
        };
        save(path, &all)
    }
}

impl Member {
    fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map(|(_, data)| data.clone())
            .unwrap_or_default()
    }
}

impl Group {
    fn new() -> Self {
        Self {
            state: State::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            promised: HashMap::new(),
            offsets: Offsets::new(),
        }
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::Empty => "Empty",
            State::Joining { .. } => "PreparingRebalance",
            State::Syncing { .. } => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }

    /// Members speak of the same thing and have an assignment protocol in common.
    fn takes(&self, request: &Join) -> bool {
        let others =
            || self.members.iter().filter(|(id, _)| **id != request.member).map(|(_, member)| member);
        if others().next().is_none() {
            return true;
        }
        let common =
            |name: &str| others().all(|other| other.protocols.iter().any(|(theirs, _)| theirs == name));
        self.protocol_type == request.protocol_type && request.protocols.iter().any(|(name, _)| common(name))
    }

    fn join(&mut self, id: String, request: Join, now: Instant) -> Soon<JoinResult> {
        let (answer, later) = oneshot::channel();
        self.protocol_type = request.protocol_type;
        let unchanged = self.members.get(&id).is_some_and(|member| member.protocols == request.protocols);
        // A follower that asks again for what it has missed gets it, without another round for everyone.
        let missed = match self.state {
            State::Syncing { .. } => unchanged,
            State::Stable => unchanged && id != self.leader,
            State::Empty | State::Joining { .. } => false,
        };
        if missed {
            return Soon::Now(Ok(self.joined(&id)));
        }
        let assignment = self.members.remove(&id).map(|old| old.assignment).unwrap_or_default();
        let member = Member {
            instance: request.instance,
            client_id: request.client_id,
            client_host: request.client_host,
            session_timeout: request.session_timeout,
            rebalance_timeout: request.rebalance_timeout.min(MAX_TIMEOUT),
            protocols: request.protocols,
            assignment,
            last_seen: now,
            joining: Some(answer),
            syncing: None,
        };
        self.members.insert(id, member);
        self.rebalance(now);
        self.pass_time(now);
        Soon::Later(later)
    }

    /// Begins a round in which everybody joins anew, unless one is under way.
    fn rebalance(&mut self, now: Instant) {
        if matches!(self.state, State::Joining { .. }) {
            return;
        }
        let delay = if self.state == State::Empty { INITIAL_DELAY } else { Duration::ZERO };
        let patience = self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default();
        self.state = State::Joining { earliest: now + delay, deadline: now + patience.max(delay) };
        for waiting in self.members.values_mut().filter_map(|member| member.syncing.take()) {
            // A client that is gone needs no answer, here and below.
            let _ = waiting.send(Err(ErrorCode::REBALANCE_IN_PROGRESS));
        }
    }

    fn pass_time(&mut self, now: Instant) {
        self.promised.retain(|_, until| *until > now);
        let waits = |member: &Member| member.joining.is_some() || member.syncing.is_some();
        let gone = |member: &Member| !waits(member) && member.last_seen + member.session_timeout <= now;
        let silent: Vec<_> =
            self.members.iter().filter(|(_, member)| gone(member)).map(|(id, _)| id.clone()).collect();
        for id in silent {
            self.remove(&id, now);
        }
        match self.state {
            State::Joining { earliest, deadline } => {
                let all = self.members.values().all(|member| member.joining.is_some());
                if now >= deadline || (all && now >= earliest) {
                    self.finish_joining(now);
                }
            }
            State::Syncing { deadline } if now >= deadline => {
                // The leader kept everybody waiting: whoever has not asked for its assignment is out.
                let out: Vec<_> = self
                    .members
                    .iter()
                    .filter(|(_, m)| m.syncing.is_none())
                    .map(|(id, _)| id.clone())
                    .collect();
                for id in out {
                    self.members.remove(&id);
                }
                self.rebalance(now);
            }
            _ => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let sessions =
            self.members.values().filter(|member| member.joining.is_none() && member.syncing.is_none());
        let sessions = sessions.map(|member| member.last_seen + member.session_timeout);
        let round = match self.state {
            State::Joining { earliest, deadline } => {
                let all = self.members.values().all(|member| member.joining.is_some());
                Some(if all { earliest } else { deadline })
            }
            State::Syncing { deadline } => Some(deadline),
            State::Empty | State::Stable => None,
        };
        sessions.chain(round).chain(self.promised.values().copied()).min()
    }

    fn finish_joining(&mut self, now: Instant) {
        self.members.retain(|_, member| member.joining.is_some());
        self.generation = self.generation.wrapping_add(1).max(1);
        let Some(first) = self.members.keys().next().cloned() else {
            self.state = State::Empty;
            return;
        };
        if !self.members.contains_key(&self.leader) {
            self.leader = first;
        }
        let offered =
            self.members.get(&self.leader).map(|leader| leader.protocols.clone()).unwrap_or_default();
        let common =
            |name: &str| self.members.values().all(|m| m.protocols.iter().any(|(theirs, _)| theirs == name));
        self.protocol =
            offered.into_iter().map(|(name, _)| name).find(|name| common(name)).unwrap_or_default();
        let patience = self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default();
        self.state = State::Syncing { deadline: now + patience.max(INITIAL_DELAY) };
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.last_seen = now;
                if let Some(waiting) = member.joining.take() {
                    let _ = waiting.send(Ok(joined));
                }
            }
        }
    }

    fn joined(&self, id: &str) -> Joined {
        let members = if id == self.leader {
            let one = |(id, member): (&String, &Member)| {
                (id.clone(), member.instance.clone(), member.metadata(&self.protocol))
            };
            self.members.iter().map(one).collect()
        } else {
            Vec::new()
        };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member: id.to_owned(),
            members,
        }
    }

    fn sync(&mut self, id: &str, assignments: Vec<(String, Bytes)>, now: Instant) -> Soon<SyncResult> {
        match self.state {
            State::Empty | State::Joining { .. } => return Soon::Now(Err(ErrorCode::REBALANCE_IN_PROGRESS)),
            State::Stable => return Soon::Now(Ok(self.assigned(id))),
            State::Syncing { .. } => {}
        }
        let (answer, later) = oneshot::channel();
        if let Some(member) = self.members.get_mut(id) {
            member.syncing = Some(answer);
        }
        if id == self.leader {
            self.members.values_mut().for_each(|member| member.assignment = Bytes::new());
            for (id, assignment) in assignments {
                if let Some(member) = self.members.get_mut(&id) {
                    member.assignment = assignment;
                }
            }
            self.state = State::Stable;
            let ids: Vec<_> = self.members.keys().cloned().collect();
            for id in ids {
                let assigned = self.assigned(&id);
                if let Some(member) = self.members.get_mut(&id) {
                    member.last_seen = now;
                    if let Some(waiting) = member.syncing.take() {
                        let _ = waiting.send(Ok(assigned));
                    }
                }
            }
        }
        Soon::Later(later)
    }

    fn assigned(&self, id: &str) -> Assigned {
        Assigned {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    fn remove(&mut self, id: &str, now: Instant) {
        self.members.remove(id);
        if self.members.is_empty() {
            self.state = State::Empty;
            self.generation = self.generation.wrapping_add(1).max(1);
        } else {
            self.rebalance(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(member: &str) -> Join {
        Join {
            group: "g".to_owned(),
            member: member.to_owned(),
            instance: None,
            client_id: "c".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            session_timeout: Duration::from_secs(10),
            rebalance_timeout: Duration::from_secs(30),
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), Bytes::from_static(b"m"))],
            asks_twice: false,
        }
    }

    fn enter(groups: &Groups, member: &str, now: Instant) -> oneshot::Receiver<JoinResult> {
        match groups.join(join(member), now) {
            Soon::Later(later) => later,
            Soon::Now(result) => panic!("answered at once: {result:?}"),
        }
    }

    #[tokio::test]
    async fn two_members_share_one_generation_and_get_what_the_leader_gives_them() {
        let (groups, now) = (Groups::open(None).unwrap(), Instant::now());
        let (a, b) = (enter(&groups, "", now), enter(&groups, "", now));
        groups.pass_time(now + INITIAL_DELAY);
        let (a, b) = (a.await.unwrap().unwrap(), b.await.unwrap().unwrap());
        assert_eq!((a.generation, b.generation), (1, 1));
        let (leader, follower) = if a.leader == a.member { (a, b) } else { (b, a) };
        assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
        let Soon::Later(waits) = groups.sync("g", 1, &follower.member, vec![], now) else {
            panic!("too early")
        };
        let gives = vec![(follower.member.clone(), Bytes::from_static(b"p0"))];
        groups.sync("g", 1, &leader.member, gives, now);
        assert_eq!(waits.await.unwrap().unwrap().assignment, "p0");
        assert_eq!(groups.heartbeat("g", 1, &follower.member, now), Ok(()));
        assert_eq!(groups.heartbeat("g", 7, &follower.member, now), Err(ErrorCode::ILLEGAL_GENERATION));
    }

    #[tokio::test]
    async fn a_silent_member_is_out_and_the_others_are_told() {
        let (groups, now) = (Groups::open(None).unwrap(), Instant::now());
        let (a, b) = (enter(&groups, "", now), enter(&groups, "", now));
        let now = now + INITIAL_DELAY;
        groups.pass_time(now);
        let (a, b) = (a.await.unwrap().unwrap(), b.await.unwrap().unwrap());
        groups.sync("g", 1, &a.leader, vec![], now);
        let late = now + Duration::from_secs(9);
        assert_eq!(groups.heartbeat("g", 1, &b.member, late), Ok(()));
        let later = now + Duration::from_secs(11);
        groups.pass_time(later);
        assert_eq!(groups.heartbeat("g", 1, &a.member, later), Err(ErrorCode::UNKNOWN_MEMBER_ID));
        assert_eq!(groups.heartbeat("g", 1, &b.member, later), Err(ErrorCode::REBALANCE_IN_PROGRESS));
        let again = enter(&groups, &b.member, later);
        assert_eq!(again.await.unwrap().unwrap().generation, 2);
    }

    #[test]
    fn a_member_id_is_only_taken_from_those_that_were_given_out() {
        let (groups, now) = (Groups::open(None).unwrap(), Instant::now());
        let Soon::Now(Err((code, _))) = groups.join(join("made-up"), now) else { panic!("taken") };
        assert_eq!(code, ErrorCode::UNKNOWN_MEMBER_ID);
        let Soon::Now(Err((code, id))) = groups.join(Join { asks_twice: true, ..join("") }, now) else {
            panic!("taken")
        };
        assert_eq!(code, ErrorCode::MEMBER_ID_REQUIRED);
        assert!(matches!(groups.join(Join { asks_twice: true, ..join(&id) }, now), Soon::Later(_)));
    }
}
