package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/test/check"
)

// plantedTries is how many seeds each bug gets: what a bug needs to show is not
// part of every plan.
const plantedTries = 5

// breaks says which rules a bug can break. Any other alarm would be a false one, or
// another bug, and does not count.
var breaks = map[planted.Name][]string{
	planted.SkipTailChecks:     {check.RuleLate},
	planted.TrustReplica:       {check.RuleLate, check.RuleCause},
	planted.SkipGaps:           {check.RuleSilent},
	planted.NoFloor:            {check.RuleOnce},
	planted.StaleBase:          {check.RuleOnce},
	planted.GuessBase:          {check.RuleStateMap, check.RuleStateFeed},
	planted.RecoverAnyEpoch:    {check.RuleSilent, check.RuleOnce},
	planted.RecoverTooOld:      {check.RuleSilent},
	planted.DoubleAfterTimeout: {check.RuleOnce},
	planted.ClientsOwnID:       {check.RuleLost, check.RuleOnce},
	planted.RestartNumbers:     {check.RuleOnce},
	planted.AckBeforeStore:     {check.RuleLost},
	planted.StaleRing:          {check.RuleSilent},
	planted.PartialPresence:    {check.RulePresence},
	planted.DeadMembers:        {check.RulePresence},
	planted.NoCrashLeaves:      {check.RuleMembers},
	planted.SkipMemberNews:     {check.RuleMembers},
	planted.LeakConnections:    {check.RuleLeak},
	planted.PushBeforeStore:    {check.RuleJobLost},
	planted.RetryAfterAck:      {check.RuleJobLost},
	planted.EarlySchedule:      {check.RuleJobEarly},
	planted.AttemptFromHeader:  {check.RuleJobAttempts},
	planted.TwoDeadLetters:     {check.RuleJobDead},
	planted.DeadAfterTerm:      {check.RuleJobLost},
	planted.LowStarves:         {check.RuleJobStarve},
	planted.TooManyCredits:     {check.RuleJobCredits},
	planted.ForeignTokens:      {check.RuleJobToken},
	planted.AckWithoutAnswer:   {check.RuleJobAgain},
	planted.ForgetsOnDelivery:  {check.RuleJobLost},
	planted.HeadersLost:        {check.RuleJobSame},
	planted.SkipForeignHead:    {check.RuleStateLinear, check.RuleStateLost, check.RuleStateVersion},
	planted.SkipOwnHead:        {check.RuleStateLinear, check.RuleStateLost, check.RuleStateVersion},
	planted.ExpectAnyLife:      {check.RuleStateExpect},
	planted.CachedBelowSeen:    {check.RuleStateSeen},
	planted.RestartVersions:    {check.RuleStateVersion},
	planted.OldImageWins:       {check.RuleStateLinear, check.RuleStateLost, check.RuleStateVersion},
	planted.PositionLate:       {check.RuleStateMap},
	planted.ShowExpired:        {check.RuleStateTTL},
	planted.ForgetIdempotent:   {check.RuleStateOnce},
}

// needs names the faults that a bug shows under, where they are rare among all.
var needs = map[planted.Name]string{
	planted.TrustReplica:    "cut NATS from peers,kill edge,calm",
	planted.RecoverAnyEpoch: "squeeze",
	planted.RestartNumbers:  "clear,kill edge",
	planted.AckBeforeStore:  "kill edge,kill NATS,cut edge from NATS",

	planted.NoCrashLeaves:  "kill edge,calm",
	planted.SkipMemberNews: "cut edge from NATS,calm",

	planted.PushBeforeStore:   "kill edge,kill NATS,cut edge from NATS",
	planted.RetryAfterAck:     "kill edge,cut edge from NATS",
	planted.AttemptFromHeader: "kill edge,calm",
	planted.TwoDeadLetters:    "kill edge,cut edge from NATS",
	planted.DeadAfterTerm:     "kill edge,cut edge from NATS",
	planted.TooManyCredits:    "step down,calm",
	planted.CachedBelowSeen:   "slow edge,calm",
	planted.ForgetIdempotent:  "kill edge,cut edge from NATS,kill NATS",
	planted.AckWithoutAnswer:  "cut edge from NATS,calm",
}

// runPlanted runs edges that have a bug on purpose, one bug after the other, and
// expects the checker to notice each.
func runPlanted(ctx context.Context, o options, edge string) error {
	bugs := planted.All
	if o.planted != "all" {
		bugs = nil
		for name := range strings.SplitSeq(o.planted, ",") {
			if !slices.Contains(planted.All, planted.Name(name)) {
				return fmt.Errorf("-planted: there is no bug %q; there are %v", name, planted.All)
			}
			bugs = append(bugs, planted.Name(name))
		}
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex // guards what follows
		missed []planted.Name
		failed error
	)
	slots := make(chan struct{}, max(o.parallel, 1))
	for _, bug := range bugs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			caught, err := plant(ctx, o, edge, bug)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			} else if !caught {
				missed = append(missed, bug)
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return failed
	}
	if len(missed) > 0 {
		return fmt.Errorf("not caught: %v", missed)
	}
	fmt.Printf("all %d planted bugs were caught\n", len(bugs))
	return nil
}

// plant runs seeds with bug until one shows it.
func plant(ctx context.Context, o options, edge string, bug planted.Name) (bool, error) {
	for try := range plantedTries {
		seed := o.seed + uint64(try)
		from := weights
		if names := needs[bug]; names != "" {
			var err error
			if from, err = restricted(names); err != nil {
				return false, err
			}
		}
		r := newRun(o, seed, edge, nil, from)
		r.name = fmt.Sprintf("%s-%d", bug, seed)
		r.dir = filepath.Join(o.dir, r.name)
		r.env = []string{planted.Variable + "=" + string(bug)}
		report, err := r.do(ctx)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		trouble := r.logTrouble()
		if !o.keep {
			os.RemoveAll(r.dir) //nolint:errcheck // a temporary directory
		}
		for _, bad := range report.Violations {
			if slices.Contains(breaks[bug], bad.Rule) {
				fmt.Printf("planted %s: caught by seed %d, %d violations, among them: %v\n", bug, seed, len(report.Violations), bad)
				return true, nil
			}
		}
		fmt.Printf("planted %s: not noticed by seed %d: %s %v %v %v\n", bug, seed, summary(report), err, trouble, report.Violations)
	}
	return false, nil
}
