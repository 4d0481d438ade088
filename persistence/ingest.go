package persistence

import "context"

type ingestResult string

const (
	ingestStored  ingestResult = "stored"
	ingestDead    ingestResult = "dead"    // refused for good, now a dead letter
	ingestRetried ingestResult = "retried" // could not be stored now
)

type ingest struct{}

func (i *ingest) run(ctx context.Context) { <-ctx.Done() }

func (s *Store) openIngest(context.Context) (*ingest, error) { return nil, nil }
