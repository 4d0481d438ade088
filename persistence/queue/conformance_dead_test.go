package queue

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

func redrive(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	h := hire(t, s, 1)
	headers := map[string]string{"a": "ö"}
	p := mustPush(t, s, router.NewJob{Payload: []byte("1"), Headers: headers, Priority: router.PriorityHigh, MaxAttempts: 2})
	j := h.next()
	origin := j.Origin
	h.nack(j, router.Nack{Error: "e", Final: true})
	for life := 1; life <= 2; life++ { // it dies again and comes back again
		d := eventuallyDead(t, s, 1)[0]
		for range 2 { // the second time it is gone
			n, err := s.Redrive(t.Context(), "q", []uint64{d.Seq})
			if err != nil || n > 1 {
				t.Fatalf("redrive: %d %v", n, err)
			}
		}
		j = h.next()
		if j.ID != p.ID || j.Attempt != 1 || j.MaxAttempts != 2 || j.Redriven != life || j.LastError != "e" ||
			!maps.Equal(j.Headers, headers) || !sameOrigin(j.Origin, origin) || j.Priority != router.PriorityHigh {
			t.Errorf("life %d: %+v", life, j)
		}
		if life == 1 {
			h.nack(j, router.Nack{Error: "e"})
			if j = h.next(); j.Attempt != 2 {
				t.Errorf("life %d: %+v", life, j)
			}
			h.nack(j, router.Nack{Error: "e"})
			continue
		}
		h.ack(j)
	}
	h.none(50 * time.Millisecond)
	eventuallyEmpty(t, s)
	eventuallyDead(t, s, 0)
}

func paging(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	h := hire(t, s, 10)
	for i := range 10 {
		mustPush(t, s, text(fmt.Sprint(i)))
		h.nack(h.next(), router.Nack{Final: true})
	}
	all := eventuallyDead(t, s, 10)
	var paged []router.DeadLetter
	for from := uint64(0); ; {
		page, err := s.ListDead(t.Context(), "q", from, 3)
		if err != nil || len(page) > 3 {
			t.Fatalf("page of %d: %v", len(page), err)
		}
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
		from = page[len(page)-1].Seq + 1
	}
	seq := func(d []router.DeadLetter) (n []uint64) {
		for i := range d {
			n = append(n, d[i].Seq)
		}
		return n
	}
	if !slices.Equal(seq(all), seq(paged)) {
		t.Errorf("pages %v, all %v", seq(paged), seq(all))
	}
	one, err := s.ShowDead(t.Context(), "q", all[4].Seq)
	if err != nil || string(one.Payload) != string(all[4].Payload) || one.ID != all[4].ID {
		t.Errorf("show: %+v %v", one, err)
	}
	if _, err := s.ShowDead(t.Context(), "q", 1000); router.CodeOf(err) != router.CodeInvalid {
		t.Errorf("show of none: %v", err)
	}
	if n, err := s.PurgeDead(t.Context(), "q", []uint64{all[0].Seq, all[1].Seq, all[0].Seq, 999}); n != 2 || err != nil {
		t.Errorf("purged %d %v", n, err)
	}
	if n, err := s.Redrive(t.Context(), "q", []uint64{all[2].Seq, all[3].Seq}); n != 2 || err != nil {
		t.Errorf("redriven %d %v", n, err)
	}
	if n, err := s.PurgeDead(t.Context(), "q", []uint64{all[4].Seq}); n != 1 || err != nil {
		t.Errorf("purged %d %v", n, err)
	}
	if n, err := s.Redrive(t.Context(), "q", nil); n != 5 || err != nil {
		t.Errorf("redriven %d %v", n, err)
	}
	if n, err := s.PurgeDead(t.Context(), "q", nil); n != 0 || err != nil {
		t.Errorf("purged %d %v", n, err)
	}
	seen := map[string]bool{}
	for range 7 {
		j := h.next()
		seen[string(j.Payload)] = true
		h.ack(j)
	}
	if len(seen) != 7 || seen["0"] || seen["1"] || seen["4"] {
		t.Errorf("came back: %v", seen)
	}
	eventuallyEmpty(t, s)
}
