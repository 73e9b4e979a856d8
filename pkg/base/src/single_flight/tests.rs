use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const GRACE: Duration = Duration::from_secs(30);
/// Two milliseconds before it is over.
const NEARLY: Duration = Duration::from_millis(29_998);

fn flights(grace: Duration) -> Arc<SingleFlight<&'static str, usize>> {
    Arc::new(SingleFlight::new(Supervisor::new("test"), grace))
}

/// Waits for the flight of `key`, which never ends by itself, for so long.
async fn wait_for(flights: &SingleFlight<&'static str, usize>, patience: Duration) {
    let left = tokio::time::timeout(patience, flights.run("key", std::future::pending)).await;
    assert!(left.is_err(), "the flight ended while somebody waited");
}

#[tokio::test]
async fn callers_of_one_key_share_one_run() {
    let flights = flights(GRACE);
    let runs = Arc::new(AtomicUsize::new(0));
    let operation = || {
        let runs = Arc::clone(&runs);
        async move {
            tokio::task::yield_now().await;
            runs.fetch_add(1, Ordering::SeqCst)
        }
    };
    let (a, b) = tokio::join!(flights.run("key", operation), flights.run("key", operation));
    assert_eq!((a, b), (Some(0), Some(0)));
    assert_eq!(flights.run("key", operation).await, Some(1), "a finished run is not joined");
}

#[tokio::test]
async fn only_the_caller_who_starts_is_asked_for_the_operation() {
    let flights = flights(GRACE);
    let started = |name: &'static str, asked: &mut Vec<&'static str>| {
        asked.push(name);
        async { 7 }
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let both = tokio::join!(
        flights.run("key", || started("first", &mut first)),
        flights.run("key", || started("second", &mut second)),
    );
    assert_eq!((both, first, second), ((Some(7), Some(7)), vec!["first"], vec![]));
}

#[tokio::test]
async fn keys_fly_apart() {
    let flights = flights(GRACE);
    let both = tokio::join!(flights.run("one", || async { 1 }), flights.run("two", || async { 2 }));
    assert_eq!(both, (Some(1), Some(2)));
}

#[tokio::test]
async fn a_panic_frees_the_key_and_reaches_those_who_wait() {
    let flights = flights(GRACE);
    assert_eq!(flights.run("key", || async { panic!("expected by the test") }).await, None);
    assert!(!flights.is_running(&"key"));
    assert_eq!(flights.run("key", || async { 1 }).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn ends_a_grace_after_the_last_caller_left() {
    let flights = flights(GRACE);
    tokio::join!(wait_for(&flights, Duration::from_secs(1)), wait_for(&flights, Duration::from_secs(100)));
    tokio::time::sleep(NEARLY).await;
    assert!(flights.is_running(&"key"), "a new caller could still join");
    tokio::time::sleep(Duration::from_millis(4)).await;
    assert!(!flights.is_running(&"key"), "nobody came back");
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_within_the_grace_keeps_the_flight() {
    let flights = flights(GRACE);
    let started = Arc::new(AtomicUsize::new(0));
    for _ in 0..5 {
        let operation = || {
            started.fetch_add(1, Ordering::SeqCst);
            std::future::pending()
        };
        let left = tokio::time::timeout(Duration::from_secs(1), flights.run("key", operation)).await;
        assert!(left.is_err());
        tokio::time::sleep(NEARLY).await;
    }
    assert_eq!(started.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_ends_within_the_grace_has_its_effect() {
    let flights = flights(GRACE);
    let ended = Arc::new(AtomicUsize::new(0));
    let operation = || {
        let ended = Arc::clone(&ended);
        async move {
            tokio::time::sleep(GRACE / 2).await;
            ended.fetch_add(1, Ordering::SeqCst)
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), flights.run("key", operation)).await.is_err());
    tokio::time::sleep(GRACE).await;
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_was_abandoned_drops_what_it_holds() {
    let flights = flights(GRACE);
    let held = Arc::new(());
    let operation = || {
        let held = Arc::clone(&held);
        async move {
            std::future::pending::<()>().await;
            drop(held);
            0
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), flights.run("key", operation)).await.is_err());
    assert_eq!(Arc::strong_count(&held), 2);
    tokio::time::sleep(GRACE * 2).await;
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn ends_with_its_supervisor() {
    let supervisor = Supervisor::new("test");
    let flights = SingleFlight::<&str, usize>::new(supervisor.clone(), GRACE);
    let (result, ()) = tokio::join!(flights.run("key", std::future::pending), async {
        tokio::task::yield_now().await;
        supervisor.cancel();
    });
    assert_eq!(result, None);
    assert!(supervisor.shut_down(Duration::from_secs(5)).await, "no task is left");
    assert_eq!(flights.run("key", std::future::pending).await, None, "nothing starts any more");
}

/// Without a grace every moment is the last one: whoever joins must get a result, and not the end of what others left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_joins_a_flight_that_is_being_abandoned() {
    let flights = flights(Duration::ZERO);
    let operation = || async {
        tokio::task::yield_now().await;
        1
    };
    let supervisor = Supervisor::new("callers");
    for _ in 0..2000 {
        let leaver = Arc::clone(&flights);
        supervisor.spawn("leaver", async move {
            // Polled once, and then dropped.
            tokio::select! {
                biased;
                _ = leaver.run("key", operation) => {}
                () = tokio::task::yield_now() => {}
            }
        });
        assert_eq!(flights.run("key", operation).await, Some(1));
    }
    assert!(supervisor.shut_down(GRACE).await);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_end_keeps_nothing_up() {
    let flights = flights(GRACE);
    tokio::join!(wait_for(&flights, Duration::from_secs(1)), async {
        tokio::task::yield_now().await;
        flights.ended(|key| *key == "other").await;
        assert!(flights.is_running(&"key"), "another flight is not waited for");
        let began = tokio::time::Instant::now();
        flights.ended(|key| *key == "key").await;
        assert_eq!(began.elapsed().as_secs(), 31, "a second while somebody waited, and the grace");
    });
}
