//! One partition as the server sees it: its log, who leads it, and how far it is safe to read.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, watch};

use crate::ErrorCode;
use crate::log::PartitionLog;

/// Who leads a partition; `None` is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) node: Option<i32>,
    pub(crate) epoch: i32,
}

/// How far the log is safe: what consumers may see and what may be acknowledged.
#[derive(Debug, Clone, Copy)]
struct Safe {
    end: i64,
    failed: bool,
}

/// When an appended record is safe.
#[derive(Debug, Clone)]
pub(crate) enum Safety {
    /// At once.
    Appended,
    /// When it is synced; the permits bound how many syncs run at the same time.
    Synced(Arc<Semaphore>),
}

/// A partition.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) index: i32,
    log: Mutex<Guarded>,
    safe: watch::Sender<Safe>,
    leadership: Mutex<Leadership>,
    safety: Safety,
    /// Bumped whenever somewhere on the server more can be read.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Guarded {
    log: PartitionLog,
    flushing: bool,
}

impl Partition {
    pub(crate) fn new(
        index: i32,
        log: PartitionLog,
        leader: i32,
        safety: Safety,
        changes: watch::Sender<u64>,
    ) -> Self {
        let safe = Safe { end: log.next_offset(), failed: false };
        Self {
            index,
            log: Mutex::new(Guarded { log, flushing: false }),
            safe: watch::Sender::new(safe),
            leadership: Mutex::new(Leadership { node: Some(leader), epoch: 0 }),
            safety,
            changes,
        }
    }

    pub(crate) fn leadership(&self) -> Leadership {
        *self.leadership.lock()
    }

    pub(crate) fn lead(&self, node: Option<i32>) {
        let mut leadership = self.leadership.lock();
        *leadership = Leadership { node, epoch: leadership.epoch + 1 };
        drop(leadership);
        self.changes.send_modify(|n| *n += 1);
    }

    /// Checks that `node` leads the partition and that the client, if it names an epoch, knows of the same leadership.
    pub(crate) fn check_leader(&self, node: i32, client_epoch: i32) -> Result<Leadership, ErrorCode> {
        let leadership = self.leadership();
        match leadership.node {
            None => Err(ErrorCode::LEADER_NOT_AVAILABLE),
            Some(leader) if leader != node => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            Some(_) if client_epoch < 0 || client_epoch == leadership.epoch => Ok(leadership),
            Some(_) if client_epoch < leadership.epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
            Some(_) => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        }
    }

    /// The log, under its lock: for short work, nothing is awaited meanwhile.
    pub(crate) fn with_log<T>(&self, work: impl FnOnce(&mut PartitionLog) -> T) -> T {
        work(&mut self.log.lock().log)
    }

    /// The offset behind the last record that consumers may see (Kafka's high watermark).
    pub(crate) fn high_watermark(&self) -> i64 {
        self.safe.borrow().end
    }

    /// To be called after an append: makes it visible, at once or as soon as it is synced.
    pub(crate) fn publish(self: &Arc<Self>) {
        let mut guarded = self.log.lock();
        match &self.safety {
            Safety::Appended => self.advance(&guarded.log, guarded.log.next_offset()),
            Safety::Synced(_) if guarded.flushing => {}
            Safety::Synced(permits) => {
                guarded.flushing = true;
                drop(guarded);
                tokio::spawn(Arc::clone(self).flush(Arc::clone(permits)));
            }
        }
    }

    fn advance(&self, log: &PartitionLog, end: i64) {
        self.safe.send_replace(Safe { end, failed: log.has_failed() });
        self.changes.send_modify(|n| *n += 1);
    }

    /// Syncs until everything is: one sync covers all that was appended before it began (group commit).
    async fn flush(self: Arc<Self>, permits: Arc<Semaphore>) {
        loop {
            let _permit = permits.acquire().await;
            let (file, end) = self.with_log(|log| (log.active_file(), log.next_offset()));
            // A failure of the blocking pool is a shutdown: what was not synced is not acknowledged.
            let synced = match file {
                Some(file) => tokio::task::spawn_blocking(move || file.sync_data())
                    .await
                    .unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))),
                None => Ok(()),
            };
            let guarded = self.log.lock();
            if self.synced(guarded, synced, end) {
                return;
            }
        }
    }

    /// Takes the result of a sync up to `end`; true when nothing is left to sync.
    fn synced(&self, mut guarded: MutexGuard<'_, Guarded>, result: std::io::Result<()>, end: i64) -> bool {
        if let Err(error) = result {
            tracing::error!(%error, partition = self.index, "sync failed: the partition takes nothing more until a restart");
            guarded.log.fail();
            let end = self.high_watermark();
            self.advance(&guarded.log, end);
            return true;
        }
        self.advance(&guarded.log, end);
        guarded.flushing = guarded.log.next_offset() > end;
        !guarded.flushing
    }

    /// Waits until everything below `end` is safe.
    pub(crate) async fn wait_safe(&self, end: i64) -> Result<(), ErrorCode> {
        let mut safe = self.safe.subscribe();
        match safe.wait_for(|safe| safe.failed || safe.end >= end).await {
            Ok(safe) if safe.end >= end => Ok(()),
            _ => Err(ErrorCode::KAFKA_STORAGE_ERROR),
        }
    }

    /// Syncs now, on this thread.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        match self.with_log(|log| log.active_file()) {
            Some(file) => file.sync_data(),
            None => Ok(()),
        }
    }

    /// The topic is gone: nobody waits any longer.
    pub(crate) fn close(&self) {
        let mut guarded = self.log.lock();
        guarded.log.forget();
        self.safe.send_modify(|safe| safe.failed = true);
        self.changes.send_modify(|n| *n += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::Limits;
    use crate::record_batch::tests::batch;
    use crate::record_batch::validate;

    #[tokio::test]
    async fn a_record_is_neither_shown_nor_promised_before_its_sync() {
        let limits = Limits { segment_bytes: 1 << 20, retention_bytes: 1 << 20, total: Arc::default() };
        let dir = std::env::temp_dir().join(format!("minikafka-sync-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = PartitionLog::open(Some(dir.clone()), limits).unwrap();
        // Without a permit no sync begins.
        let permits = Arc::new(Semaphore::new(0));
        let safety = Safety::Synced(Arc::clone(&permits));
        let partition = Arc::new(Partition::new(0, log, 1, safety, watch::Sender::new(0)));
        let batch = batch(&["a"], (-1, -1, -1));
        let header = validate(&batch).unwrap();
        let appended = partition.with_log(|log| log.append(&header, &batch, 0)).unwrap();
        partition.publish();
        let early = tokio::time::timeout(Duration::from_millis(50), partition.wait_safe(appended.end)).await;
        assert!(early.is_err(), "promised before the sync");
        assert_eq!(partition.high_watermark(), 0);
        permits.add_permits(1);
        assert_eq!(partition.wait_safe(appended.end).await, Ok(()));
        assert_eq!(partition.high_watermark(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn a_failed_sync_is_told_to_those_who_wait_and_nothing_more_is_taken() {
        let limits = Limits { segment_bytes: 1 << 20, retention_bytes: 1 << 20, total: Arc::default() };
        let log = PartitionLog::open(None, limits).unwrap();
        let safety = Safety::Synced(Arc::new(Semaphore::new(0)));
        let partition = Arc::new(Partition::new(0, log, 1, safety, watch::Sender::new(0)));
        let batch = batch(&["a"], (-1, -1, -1));
        let header = validate(&batch).unwrap();
        let appended = partition.with_log(|log| log.append(&header, &batch, 0)).unwrap();
        partition.synced(partition.log.lock(), Err(std::io::Error::other("EIO")), appended.end);
        assert_eq!(partition.wait_safe(appended.end).await, Err(ErrorCode::KAFKA_STORAGE_ERROR));
        let again = partition.with_log(|log| log.append(&header, &batch, 0));
        assert_eq!(again, Err(ErrorCode::KAFKA_STORAGE_ERROR));
        assert_eq!(partition.high_watermark(), 0);
    }
}
