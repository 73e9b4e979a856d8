use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use imagevol_api::prefetch::CheckedList;
use imagevol_base::Holder;

use super::*;
use crate::images::{Present, Row};
use crate::item::Item;

/// Images that are here, rows, and pulls that end when a test says so.
#[derive(Default)]
struct Fake {
    world: Mutex<World>,
    changed: tokio::sync::Notify,
}

#[derive(Default)]
struct World {
    rows: BTreeMap<Holder, Row>,
    present: BTreeMap<String, Present>,
    /// What each pull was asked for, in their order.
    pulls: Vec<(String, PullPolicy)>,
    running: usize,
    most_running: usize,
    /// The outcome of each reference's pulls; without one they do not end.
    outcomes: BTreeMap<String, Result<u8, String>>,
}

struct Node {
    fake: Arc<Fake>,
    lists: watch::Sender<Arc<Lists>>,
    overview: watch::Receiver<Arc<Overview>>,
    supervisor: Supervisor,
    state: tempfile::TempDir,
}

struct RunningPull<'a>(&'a Fake);

impl Drop for RunningPull<'_> {
    fn drop(&mut self) {
        self.0.world().running -= 1;
    }
}

impl Fake {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn end(&self, reference: &str, outcome: Result<u8, &str>) {
        self.world().outcomes.insert(reference.to_owned(), outcome.map_err(str::to_owned));
        self.changed.notify_waiters();
    }
}

#[async_trait]
impl NodeImages for Fake {
    async fn rows(&self) -> Result<Vec<(Holder, Row)>, ImageServiceError> {
        let mut world = self.world();
        let now = wall();
        world.rows.retain(|_, row| row.expires.is_none_or(|expires| expires > now));
        Ok(world.rows.clone().into_iter().collect())
    }

    async fn present(&self, reference: &str) -> Result<Option<Present>, ImageServiceError> {
        Ok(self.world().present.get(reference).cloned())
    }

    async fn hold(&self, holder: &Holder, reference: &str) -> Result<(), ImageServiceError> {
        let mut world = self.world();
        let image = world.rows.get(holder).and_then(|row| row.image.clone());
        world.rows.insert(holder.clone(), Row { reference: reference.to_owned(), image, expires: None });
        Ok(())
    }

    async fn hold_for(&self, holder: &Holder, _: &str, lasts: Duration) -> Result<(), ImageServiceError> {
        self.world().rows.get_mut(holder).unwrap().expires = Some(wall() + lasts);
        Ok(())
    }

    async fn bind(&self, holder: &Holder, image: &ImageId) -> Result<(), ImageServiceError> {
        self.world().rows.get_mut(holder).unwrap().image = Some(image.clone());
        Ok(())
    }

    async fn release(&self, holder: &Holder) -> Result<(), ImageServiceError> {
        self.world().rows.remove(holder);
        Ok(())
    }

    async fn pull(&self, wanted: Wanted<'_>, _: &Progress) -> Result<ImageId, PullFailed> {
        {
            let mut world = self.world();
            world.pulls.push((wanted.reference.to_owned(), wanted.policy));
            world.running += 1;
            world.most_running = world.most_running.max(world.running);
        }
        let _running = RunningPull(self);
        loop {
            let changed = self.changed.notified();
            let outcome = self.world().outcomes.get(wanted.reference).cloned();
            match outcome {
                Some(Ok(number)) => {
                    let mut world = self.world();
                    let present = Present { image: image(number), pulled_at: wall() };
                    world.rows.get_mut(wanted.holder).unwrap().image = Some(image(number));
                    world.present.insert(wanted.reference.to_owned(), present);
                    return Ok(image(number));
                }
                Some(Err(message)) => return Err(PullFailed { message }),
                None => changed.await,
            }
        }
    }
}

/// A clock that goes with the paused one: it starts on 15 January 2027, at 8 o'clock.
fn wall() -> Timestamp {
    thread_local!(static START: Instant = Instant::now());
    Timestamp::from_second(1_800_000_000).unwrap() + START.with(Instant::elapsed)
}

fn image(number: u8) -> ImageId {
    ImageId::new(format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap())
}

fn list(images: &str) -> Arc<Lists> {
    let yaml = format!(
        "apiVersion: imagevol.dev/v1alpha1\nkind: ImagePrefetch\nmetadata: {{name: models}}\nspec: {{images: [{images}]}}\n"
    );
    let lists = CheckedList::parse_file(&yaml).unwrap();
    let items = lists.iter().flat_map(|list| Item::of(list).collect::<Vec<_>>()).collect();
    Arc::new(Lists { items, problems: Vec::new(), complete: Completeness::Complete })
}

impl Node {
    fn start(lists: Arc<Lists>) -> Self {
        Self::start_with(Arc::default(), lists, tempfile::tempdir().unwrap())
    }

    fn start_with(fake: Arc<Fake>, lists: Arc<Lists>, state: tempfile::TempDir) -> Self {
        wall();
        let (supervisor, lists) = (Supervisor::new("test"), watch::Sender::new(lists));
        let keeper = Keeper::new(Parts {
            images: Arc::clone(&fake),
            lists: lists.subscribe(),
            state_dir: state.path().to_owned(),
            wall: Arc::new(wall),
            metrics: Metrics::default(),
            supervisor: supervisor.child("pulls"),
        });
        let overview = keeper.subscribe();
        supervisor.spawn("keeper", keeper.run(supervisor.token()));
        Self { fake, lists, overview, supervisor, state }
    }

    async fn until(&mut self, phases: &[Phase]) -> Vec<Shown> {
        let same = |overview: &Arc<Overview>| overview.items.iter().map(|item| item.phase).eq(phases.iter().copied());
        self.overview.wait_for(same).await.unwrap().items.clone()
    }

    async fn restart(self, lists: Arc<Lists>) -> Self {
        assert!(self.supervisor.shut_down(Duration::from_mins(1)).await);
        Self::start_with(self.fake, lists, self.state)
    }
}

#[tokio::test(start_paused = true)]
async fn lists_make_images_present_two_at_a_time() {
    let mut node = Node::start(list("{reference: 'r.io/a:1'}, {reference: 'r.io/b:1'}, {reference: 'r.io/c:1'}"));
    node.until(&[Phase::Pulling, Phase::Pulling, Phase::Waiting]).await;
    assert_eq!(node.fake.world().rows.len(), 3, "all are held before they are here");
    for reference in ["r.io/a:1", "r.io/b:1", "r.io/c:1"] {
        node.fake.end(reference, Ok(1));
    }
    let shown = node.until(&[Phase::Present; 3]).await;
    assert_eq!((shown[2].image.clone(), &*shown[2].written), (Some(image(1)), "r.io/c:1"));
    assert_eq!(node.fake.world().most_running, 2);
    assert_eq!(node.fake.world().pulls.len(), 3);
    node.lists.send_replace(list("{reference: 'r.io/b:1'}"));
    node.until(&[Phase::Present]).await;
    assert_eq!(node.fake.world().rows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_pull_waits_and_is_tried_again() {
    let mut node = Node::start(list("{reference: 'r.io/a:1'}"));
    node.fake.end("r.io/a:1", Err("r.io: 503"));
    let shown = node.until(&[Phase::Failed]).await;
    assert_eq!(shown[0].message.as_deref(), Some("r.io: 503"));
    assert_eq!(shown[0].next_pull, Some(wall() + FIRST_WAIT));
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(node.fake.world().pulls.len(), 3, "at once, after 10 s and after 20 s more");
    node.fake.end("r.io/a:1", Ok(1));
    assert_eq!(node.until(&[Phase::Present]).await[0].message, None);
}

#[tokio::test(start_paused = true)]
async fn a_restart_pulls_nothing_again() {
    let lists = list("{reference: 'r.io/a:latest'}, {reference: 'r.io/b:1'}");
    let mut node = Node::start(Arc::clone(&lists));
    node.fake.end("r.io/a:latest", Ok(1));
    node.fake.end("r.io/b:1", Ok(2));
    node.until(&[Phase::Present; 2]).await;
    let mut node = node.restart(lists).await;
    node.until(&[Phase::Present; 2]).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(node.fake.world().pulls.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_asks_every_hour() {
    let mut node = Node::start(list("{reference: 'r.io/a:1', pullPolicy: Always, schedule: '@hourly'}"));
    node.fake.end("r.io/a:1", Ok(1));
    let shown = node.until(&[Phase::Present]).await;
    assert_eq!(shown[0].next_pull, Some(Timestamp::from_second(1_800_003_600).unwrap()));
    node.fake.end("r.io/a:1", Ok(2));
    tokio::time::sleep(Duration::from_mins(150)).await;
    assert_eq!(node.fake.world().pulls, vec![("r.io/a:1".to_owned(), PullPolicy::Always); 3]);
    assert_eq!(node.overview.borrow().items[0].image, Some(image(2)));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_nobody_uses_is_kept_for_a_while_and_does_not_come_back() {
    let lists = list("{reference: 'r.io/a:1', keepUnusedFor: 1h}");
    let mut node = Node::start(Arc::clone(&lists));
    node.fake.end("r.io/a:1", Ok(1));
    let shown = node.until(&[Phase::Present]).await;
    assert!(shown[0].expires.is_some_and(|expires| expires > wall() + Duration::from_mins(59)));
    node.until(&[Phase::Ended]).await;
    assert!(node.fake.world().rows.is_empty());
    node.fake.world().present.clear();
    let mut node = node.restart(Arc::clone(&lists)).await;
    node.until(&[Phase::Ended]).await;
    assert_eq!(node.fake.world().pulls.len(), 1);
    node.lists.send_replace(list("{reference: 'r.io/b:1'}"));
    node.until(&[Phase::Pulling]).await;
    node.lists.send_replace(lists);
    node.until(&[Phase::Present]).await;
    assert_eq!(node.fake.world().pulls.len(), 3, "one that is listed anew begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_breaks_a_pull_off() {
    let mut node = Node::start(list("{reference: 'r.io/a:1', deadline: '2027-01-15T09:00:00Z'}"));
    node.until(&[Phase::Pulling]).await;
    node.until(&[Phase::Ended]).await;
    tokio::task::yield_now().await;
    assert_eq!(node.fake.world().running, 0);
    assert!(node.fake.world().rows.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_pulled_waits_until_it_is_here() {
    let mut node = Node::start(list("{reference: 'r.io/a:1', pullPolicy: Never}"));
    let shown = node.until(&[Phase::Waiting]).await;
    assert_eq!(shown[0].message.as_deref(), Some("not present, and its pull policy is Never"));
    let present = Present { image: image(3), pulled_at: wall() };
    node.fake.world().present.insert("r.io/a:1".to_owned(), present);
    assert_eq!(node.until(&[Phase::Present]).await[0].image, Some(image(3)));
    assert!(node.fake.world().pulls.is_empty());
}
