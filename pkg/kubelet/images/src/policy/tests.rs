use proptest::prelude::*;
use rstest::rstest;

use super::PullPolicy::{Always, IfNotPresent, Never};
use super::*;

/// The steps that a request takes if the world is as `world` says.
fn walk(policy: PullPolicy, world: Facts) -> (Vec<Step>, Facts) {
    let (mut facts, mut steps) = (Facts::of(world.reference), Vec::new());
    loop {
        let step = next_step(policy, facts);
        steps.push(step);
        match step {
            Step::Inspect => facts.local = world.local,
            Step::CheckAccess => facts.access = world.access,
            Step::LookUpCredentials => facts.credentials = world.credentials,
            Step::RecordIntent => facts.intent = world.intent,
            Step::CheckBackoff => facts.backoff = world.backoff,
            Step::Pull | Step::UseLocal | Step::Refuse(_) => return (steps, facts),
        }
    }
}

/// A world in which everything goes well, with no local copy.
fn fine() -> Facts {
    Facts {
        reference: Outcome::Done,
        local: Some(Local::Absent),
        access: Some(Access::Allowed),
        credentials: Some(Outcome::Done),
        intent: Some(Outcome::Done),
        backoff: Some(Backoff::Clear),
    }
}

fn present(access: Access) -> Facts {
    Facts { local: Some(Local::Present), access: Some(access), ..fine() }
}

/// The decision table, row by row: what is decided, which image service calls come before it.
#[rstest]
#[case::d1_bad_name(IfNotPresent, Facts { reference: Outcome::Failed, ..fine() }, Step::Refuse(Refusal::InvalidName), &[])]
#[case::d1_always(Always, Facts { reference: Outcome::Failed, ..fine() }, Step::Refuse(Refusal::InvalidName), &[])]
#[case::d2_inspection(IfNotPresent, Facts { local: Some(Local::Failed), ..fine() }, Step::Refuse(Refusal::Inspection), &[Step::Inspect])]
#[case::d2_never(Never, Facts { local: Some(Local::Failed), ..fine() }, Step::Refuse(Refusal::Inspection), &[Step::Inspect])]
#[case::d3_never_absent(Never, fine(), Step::Refuse(Refusal::NeverPull), &[Step::Inspect])]
#[case::d4_never_present(Never, present(Access::Allowed), Step::UseLocal, &[Step::Inspect])]
#[case::d5_never_denied(Never, present(Access::Denied), Step::Refuse(Refusal::NeverPull), &[Step::Inspect])]
#[case::d6_present(IfNotPresent, present(Access::Allowed), Step::UseLocal, &[Step::Inspect])]
#[case::d7_denied(IfNotPresent, present(Access::Denied), Step::Pull, &[Step::Inspect])]
#[case::d8_absent_in_backoff(IfNotPresent, Facts { backoff: Some(Backoff::Waiting), ..fine() }, Step::Refuse(Refusal::BackOff), &[Step::Inspect])]
#[case::d8_denied_in_backoff(IfNotPresent, Facts { backoff: Some(Backoff::Waiting), ..present(Access::Denied) }, Step::Refuse(Refusal::BackOff), &[Step::Inspect])]
#[case::d8_always_in_backoff(Always, Facts { backoff: Some(Backoff::Waiting), ..fine() }, Step::Refuse(Refusal::BackOff), &[])]
#[case::d9_absent(IfNotPresent, fine(), Step::Pull, &[Step::Inspect])]
#[case::d9_always(Always, present(Access::Allowed), Step::Pull, &[])]
#[case::d15_intent(Always, Facts { intent: Some(Outcome::Failed), ..fine() }, Step::Refuse(Refusal::Intent), &[])]
#[case::d16_credentials(Always, Facts { credentials: Some(Outcome::Failed), ..fine() }, Step::Refuse(Refusal::Credentials), &[])]
#[case::d16_before_backoff(Always, Facts { credentials: Some(Outcome::Failed), backoff: Some(Backoff::Waiting), ..fine() }, Step::Refuse(Refusal::Credentials), &[])]
#[case::d17_check(IfNotPresent, present(Access::Failed), Step::Refuse(Refusal::Access), &[Step::Inspect])]
#[case::d17_never(Never, present(Access::Failed), Step::Refuse(Refusal::Access), &[Step::Inspect])]
fn decides_as_the_kubelet(
    #[case] policy: PullPolicy,
    #[case] world: Facts,
    #[case] end: Step,
    #[case] service: &[Step],
) {
    let (steps, _) = walk(policy, world);
    assert_eq!(steps.last(), Some(&end));
    let asked: Vec<_> = steps.into_iter().filter(|step| *step == Step::Inspect).collect();
    assert_eq!(asked, service);
}

#[test]
fn takes_the_steps_in_the_kubelets_order() {
    let (steps, _) = walk(IfNotPresent, present(Access::Denied));
    let order =
        [Step::Inspect, Step::CheckAccess, Step::LookUpCredentials, Step::RecordIntent, Step::CheckBackoff, Step::Pull];
    assert_eq!(steps, order);
}

/// The tuples that Kubernetes' documentation of the metric expects.
#[rstest]
#[case(Always, fine(), "unknown", "true")]
#[case(IfNotPresent, fine(), "false", "true")]
#[case(IfNotPresent, present(Access::Allowed), "true", "false")]
#[case(IfNotPresent, present(Access::Denied), "true", "true")]
#[case(Never, fine(), "false", "unknown")]
#[case(Never, present(Access::Allowed), "true", "false")]
#[case(Never, present(Access::Denied), "true", "true")]
#[case(IfNotPresent, Facts { local: Some(Local::Failed), ..fine() }, "unknown", "unknown")]
#[case(Always, Facts { reference: Outcome::Failed, ..fine() }, "unknown", "unknown")]
#[case(IfNotPresent, present(Access::Failed), "true", "unknown")]
fn tells_the_metric(#[case] policy: PullPolicy, #[case] world: Facts, #[case] here: &str, #[case] required: &str) {
    let (_, facts) = walk(policy, world);
    assert_eq!((facts.present_locally().as_str(), facts.pull_required(policy).as_str()), (here, required));
}

#[test]
fn policies_are_read_as_written() {
    for policy in [Always, IfNotPresent, Never] {
        assert_eq!(policy.as_str().parse(), Ok(policy));
    }
    assert!("always".parse::<PullPolicy>().is_err());
}

fn outcome() -> impl Strategy<Value = Option<Outcome>> {
    prop_oneof![Just(Some(Outcome::Done)), Just(Some(Outcome::Failed))]
}

prop_compose! {
    fn worlds()(
        reference in prop_oneof![Just(Outcome::Done), Just(Outcome::Failed)],
        local in prop_oneof![Just(Local::Present), Just(Local::Absent), Just(Local::Failed)],
        access in prop_oneof![Just(Access::Allowed), Just(Access::Denied), Just(Access::Failed)],
        credentials in outcome(),
        intent in outcome(),
        backoff in prop_oneof![Just(Backoff::Clear), Just(Backoff::Waiting)],
    ) -> Facts {
        Facts { reference, local: Some(local), access: Some(access), credentials, intent, backoff: Some(backoff) }
    }
}

proptest! {
    /// Whatever the world: a request ends, asks nothing twice, and keeps the policies' promises.
    #[test]
    fn keeps_the_promises_of_the_policies(
        policy in prop_oneof![Just(Always), Just(IfNotPresent), Just(Never)],
        world in worlds(),
    ) {
        let (steps, facts) = walk(policy, world);
        prop_assert!(steps.len() <= 6);
        let pulls = steps.contains(&Step::Pull);
        let uses = steps.contains(&Step::UseLocal);
        prop_assert!(!(policy == Never && (pulls || steps.contains(&Step::LookUpCredentials))), "Never asks nobody");
        prop_assert!(!(policy == Always && (uses || steps.contains(&Step::Inspect))), "Always looks at no copy");
        prop_assert!(!uses || world.access == Some(Access::Allowed), "a copy is used by who may use it");
        prop_assert!(!pulls || facts.intent == Some(Outcome::Done), "no pull without an intent");
        prop_assert!(!pulls || facts.backoff == Some(Backoff::Clear), "no pull in back-off");
    }
}
