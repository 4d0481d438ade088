package router

import (
	"maps"
	"math"
	"strings"
	"testing"
	"time"
)

func TestBackoffDelay(t *testing.T) {
	never := func() float64 { return 0 }
	always := func() float64 { return math.Nextafter(1, 0) }
	for name, tt := range map[string]struct {
		b       Backoff
		random  func() float64
		attempt int
		want    time.Duration
	}{
		"the first wait is the base":      {DefaultBackoff, never, 1, time.Second},
		"the second is twice that":        {DefaultBackoff, never, 2, 2 * time.Second},
		"the third four times":            {DefaultBackoff, never, 3, 4 * time.Second},
		"it ends at the cap":              {DefaultBackoff, never, 6, 30 * time.Second},
		"it stays at the cap":             {DefaultBackoff, never, math.MaxInt, 30 * time.Second},
		"attempt 0 counts as the first":   {DefaultBackoff, never, 0, time.Second},
		"jitter takes off":                {Backoff{time.Second, time.Minute, 2, 0.5}, func() float64 { return 0.5 }, 1, 750 * time.Millisecond},
		"jitter never makes it more":      {DefaultBackoff, always, 9, 24 * time.Second},
		"factor 1 is a constant interval": {Backoff{time.Second, time.Minute, 1, 0}, never, 50, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.b.Delay(tt.attempt, tt.random); (got - tt.want).Abs() > time.Microsecond {
				t.Errorf("waits %v, want %v", got, tt.want)
			}
		})
	}
}

func TestNewJobValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		job  NewJob
		code Code
	}{
		"nothing set":         {NewJob{}, ""},
		"a priority":          {NewJob{Priority: PriorityLow}, ""},
		"an unknown priority": {NewJob{Priority: "urgent"}, CodeInvalid},
		"a due time long ago": {NewJob{At: time.Unix(1, 0)}, ""},
		"delay and due time":  {NewJob{Delay: 1, At: time.Now()}, CodeInvalid},
		"a negative delay":    {NewJob{Delay: -1}, CodeInvalid},
		"ten years":           {NewJob{At: time.Now().AddDate(10, 0, 0)}, CodeInvalid},
		"a long key":          {NewJob{IdempotencyKey: strings.Repeat("k", 257)}, CodeInvalid},
		"many attempts":       {NewJob{MaxAttempts: 101}, CodeInvalid},
		"large headers":       {NewJob{Headers: map[string]string{"a": strings.Repeat("b", MaxJobHeaderBytes)}}, CodeLimit},
		"a senseless backoff": {NewJob{Backoff: &Backoff{Base: -1}}, CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.job.Validate()
			if tt.code == "" && err != nil || tt.code != "" && CodeOf(err) != tt.code {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzParseBackoff(f *testing.F) {
	f.Add("1s 30s 2 0.2")
	f.Add("1s 30s NaN +Inf")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBackoff(s)
		if err != nil {
			return
		}
		if again, err := ParseBackoff(b.String()); err != nil || again != b {
			t.Errorf("%q: %+v became %+v, %v", s, b, again, err)
		}
		for attempt := range 40 {
			if d := b.Delay(attempt, func() float64 { return 0.99 }); d < 0 || d > b.Cap {
				t.Errorf("%q: attempt %d waits %v", s, attempt, d)
			}
		}
	})
}

func FuzzJobHeaders(f *testing.F) {
	f.Add([]byte(`{"a":"ö"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := DecodeJobHeaders(data)
		if err != nil {
			return
		}
		b, err := EncodeJobHeaders(h)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b {
			if c < ' ' || c > '~' {
				t.Fatalf("byte %d in %q", c, b)
			}
		}
		if len(b) > MaxJobHeaderBytes {
			return // escapes made it longer
		}
		if again, err := DecodeJobHeaders(b); err != nil || !maps.Equal(again, h) {
			t.Errorf("%v became %v, %v", h, again, err)
		}
	})
}
